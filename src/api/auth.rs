//! The Auth service: there are no users yet, and it says so.

use crate::api::front::Front;
use crate::error::Error;
use crate::metrics::Call;
use crate::pb::etcdserverpb as api;
use crate::pb::etcdserverpb::auth_server::Auth;
use crate::server::handle::Caller;
use tonic::{Request, Response, Status};

const SERVICE: &str = "etcdserverpb.Auth";
/// The revision of an auth store that nobody has changed.
const FIRST_REVISION: u64 = 1;

/// Declares the service: the calls that are there, then those that are not, as
/// `function: Call, Request => Response`.
macro_rules! auth_service {
    ($($name:ident: $call:literal, $request:ident => $response:ident;)*) => {
        pub struct AuthService {
            front: Front,
            auth_status: Call,
            authenticate: Call,
        }

        impl AuthService {
            pub fn new(front: Front) -> AuthService {
                let call = |name| front.call(SERVICE, name);
                AuthService {
                    auth_status: call("AuthStatus"),
                    authenticate: call("Authenticate"),
                    front,
                }
            }
        }

        #[tonic::async_trait]
        impl Auth for AuthService {
            async fn auth_status(
                &self,
                request: Request<api::AuthStatusRequest>,
            ) -> Result<Response<api::AuthStatusResponse>, Status> {
                let work = |_: Caller, _: api::AuthStatusRequest| async {
                    Ok(api::AuthStatusResponse {
                        header: Some(self.front.handle.header()),
                        enabled: false,
                        auth_revision: FIRST_REVISION,
                    })
                };
                self.front.unary(&self.auth_status, request, work).await
            }

            async fn authenticate(
                &self,
                request: Request<api::AuthenticateRequest>,
            ) -> Result<Response<api::AuthenticateResponse>, Status> {
                let work = |_: Caller, _: api::AuthenticateRequest| async {
                    Err(Error::AuthNotEnabled)
                };
                self.front.unary(&self.authenticate, request, work).await
            }

            $(async fn $name(
                &self,
                _: Request<api::$request>,
            ) -> Result<Response<api::$response>, Status> {
                // So rare that its counters are looked up here, not by every server that starts.
                self.front.absent(&self.front.call(SERVICE, $call), $call)
            })*
        }
    };
}

auth_service! {
    auth_enable: "AuthEnable", AuthEnableRequest => AuthEnableResponse;
    auth_disable: "AuthDisable", AuthDisableRequest => AuthDisableResponse;
    user_add: "UserAdd", AuthUserAddRequest => AuthUserAddResponse;
    user_get: "UserGet", AuthUserGetRequest => AuthUserGetResponse;
    user_list: "UserList", AuthUserListRequest => AuthUserListResponse;
    user_delete: "UserDelete", AuthUserDeleteRequest => AuthUserDeleteResponse;
    user_change_password: "UserChangePassword",
        AuthUserChangePasswordRequest => AuthUserChangePasswordResponse;
    user_grant_role: "UserGrantRole", AuthUserGrantRoleRequest => AuthUserGrantRoleResponse;
    user_revoke_role: "UserRevokeRole", AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse;
    role_add: "RoleAdd", AuthRoleAddRequest => AuthRoleAddResponse;
    role_get: "RoleGet", AuthRoleGetRequest => AuthRoleGetResponse;
    role_list: "RoleList", AuthRoleListRequest => AuthRoleListResponse;
    role_delete: "RoleDelete", AuthRoleDeleteRequest => AuthRoleDeleteResponse;
    role_grant_permission: "RoleGrantPermission",
        AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse;
    role_revoke_permission: "RoleRevokePermission",
        AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse;
}
