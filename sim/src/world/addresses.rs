//! The addresses of the members.

use std::net::SocketAddr;

/// Where a member serves its clients.
pub fn client_address(member: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, member as u8 + 1], 2379))
}

/// Where a member listens for its peers.
pub fn peer_address(member: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, member as u8 + 1], 2380))
}

pub fn peer_url(member: usize) -> String {
    format!("http://{}", peer_address(member))
}
