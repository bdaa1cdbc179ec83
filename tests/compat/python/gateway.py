"""Drives the JSON gateway, with etcd3gw and by hand; prints what it sees, without what differs by server."""

import base64
import json
import threading

import etcd3gw
import requests


def text(value):
    return base64.b64encode(value.encode()).decode()


# The revision at which the program began: what clients before it wrote may differ by a retry.
FIRST = 0


def since_first(name, value):
    return int(value) - FIRST if name.endswith("revision") else plain(value)


def plain(answer):
    """An answer without what differs by run: the term, and where revisions began."""
    if isinstance(answer, dict):
        # `error` is how the gateway of older releases calls the message, where it is a text.
        hidden = {"raft_term", "error"} if isinstance(answer.get("error"), str) else {"raft_term"}
        return {name: since_first(name, value) for name, value in answer.items() if name not in hidden}
    if isinstance(answer, list):
        return [plain(value) for value in answer]
    return answer


class ByHand:
    def __init__(self, host, port):
        self.base = f"http://{host}:{port}"

    def post(self, path, body, **options):
        data = body if isinstance(body, str) else json.dumps(body)
        return requests.post(self.base + path, data=data, timeout=10, **options)

    def show(self, path, body, message=True):
        answer = self.post(path, body)
        kind = answer.headers["Content-Type"]
        shown = plain(answer.json())
        if not message:
            shown.pop("message", None)
        # Etcd 3.4 has a status of its own for code 9.
        status = 400 if answer.status_code == 412 else answer.status_code
        print(path, body, status, kind, json.dumps(shown, sort_keys=True))
        return answer.json()

    def lines(self, path, body, count):
        with self.post(path, body, stream=True) as answer:
            rows = answer.iter_lines()
            for _ in range(count):
                row = next(row for row in rows if row)
                shown = plain(json.loads(row))
                # Of events from the past etcd names the revision of now, and detcd theirs.
                header = shown.get("result", {}).get("header", {})
                header.pop("revision", None)
                print(path, answer.status_code, json.dumps(shown, sort_keys=True))


def calls(by_hand):
    a, b = text("/gw/a"), text("/gw/b")
    show = by_hand.show
    show("/v3/kv/put", {"key": a, "value": text("1")})
    show("/v3/kv/put", {"key": a, "value": text("2"), "prev_kv": True})
    show("/v3/kv/put", {"key": a, "value": text("3"), "prevKv": True})
    show("/v3beta/kv/range", {"key": a})
    show("/v3/kv/range", {"key": a, "range_end": b, "limit": "1", "sort_order": "DESCEND", "sort_target": 2})
    show("/v3/kv/range", {"key": a, "limit": 1, "serializable": True, "keys_only": True})
    show("/v3/kv/range", {"key": a, "count_only": True, "no such field": 1})
    show("/v3/kv/range", "")
    show("/v3/kv/range", {"key": a, "revision": 99999})
    for malformed in ['{"key":"!!!"}', '{"key":12}', '{"key":"YQ=="', "[1]", "null", '{"key":"YQ==","revision":"x"}']:
        show("/v3/kv/range", malformed, message=False)
    put = {"request_put": {"key": b, "value": text("x")}}
    compare = {"target": "CREATE", "key": b, "create_revision": "0"}
    get = {"requestRange": {"key": a}}
    show("/v3/kv/txn", {"compare": [compare], "success": [put], "failure": [get]})
    nested = {"request_txn": {"success": [get, {"request_delete_range": {"key": b, "prev_kv": True}}]}}
    show("/v3/kv/txn", {"compare": [compare], "success": [put], "failure": [nested]})
    show("/v3/kv/txn", {"success": [put, put]})
    show("/v3/kv/deleterange", {"key": b})
    first = show("/v3/kv/deleterange", {"key": a, "prev_kv": True})["header"]["revision"]
    show("/v3/kv/compaction", {"revision": "99999"})
    for path in ("/v3/nonsense", "/v3/kv/range/"):
        print(path, by_hand.post(path, {"key": a}).status_code)
    for method in ("GET", "PUT"):
        answer = requests.request(method, by_hand.base + "/v3/kv/range", timeout=10)
        # Which of the two is a matter of etcd's release.
        print(method, answer.status_code in (405, 501))
    return int(first)


def leases_and_members(by_hand):
    show = by_hand.show
    show("/v3/lease/grant", {"TTL": 600, "ID": 4711})
    show("/v3/lease/grant", {"TTL": "600", "ID": "4711"})
    show("/v3/kv/put", {"key": text("/gw/leased"), "value": "", "lease": 4711})
    by_hand.lines("/v3/lease/keepalive", {"ID": "4711"}, 1)
    by_hand.lines("/v3/lease/keepalive", {"ID": "4712"}, 1)
    for path in ("/v3/lease/leases", "/v3/kv/lease/leases"):
        print(path, {"ID": "4711"} in by_hand.post(path, {}).json()["leases"])
    for path in ("/v3/lease/timetolive", "/v3/kv/lease/timetolive"):
        left = by_hand.post(path, {"ID": "4711", "keys": True}).json()
        print(path, left["ID"], left["grantedTTL"], left["keys"], 0 < int(left["TTL"]) <= 600)
    show("/v3/kv/lease/revoke", {"ID": 4711})
    show("/v3/lease/revoke", {"ID": 4711})
    members = show("/v3/cluster/member/list", {})["members"]
    print("members", len(members), sorted(members[0]))
    show("/v3/cluster/member/add", {"peerURLs": ["nonsense"]})
    show("/v3/cluster/member/promote", {"ID": 5})
    show("/v3/auth/authenticate", {"name": "a", "password": "b"})
    show("/v3/election/leader", {"name": text("/gw/none")})


def streams(by_hand, revision):
    keys = {"key": text("/gw/"), "range_end": text("/gw0")}
    create = {"create_request": {**keys, "start_revision": str(revision)}}
    by_hand.lines("/v3/watch", create, 2)
    two = '{"create_request":{"key":"YQ==","watch_id":5}} {"create_request":{"key":"YQ==","watch_id":5}}'
    by_hand.lines("/v3/watch", two + '{"cancel_request":{"watch_id":5}}', 3)
    answer = by_hand.post("/v3/maintenance/snapshot", {}, stream=True)
    blobs = [json.loads(row)["result"].get("blob", "") for row in answer.iter_lines() if row]
    print("snapshot", answer.status_code, base64.b64decode(blobs[0])[16:20].hex(), len(blobs) > 1)


def with_etcd3gw(host, port):
    client = etcd3gw.client(host=host, port=port, api_path="/v3/")
    print("put", client.put("/gw/c", "1"), client.get("/gw/c"), client.get("/gw/none"))
    print("create", client.create("/gw/d", "2"), client.create("/gw/d", "3"))
    print("replace", client.replace("/gw/d", "2", "4"), client.replace("/gw/d", "2", "5"))
    print("prefix", [(value, kv["key"]) for value, kv in client.get_prefix("/gw/", sort_order="descend")])
    lease = client.lease(600)
    client.put("/gw/e", "leased", lease)
    print("lease", 0 < lease.ttl() <= 600, lease.refresh(), lease.keys(), lease.revoke(), client.get("/gw/e"))
    events, cancel = client.watch_prefix("/gw/w/")
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(next(events) for _ in range(2)))
    reader.start()
    client.put("/gw/w/1", "a")
    client.delete("/gw/w/1")
    reader.join(10)
    print("watch", [(event.get("type"), event["kv"]["key"], event["kv"].get("value")) for event in seen])
    cancel()
    with client.lock("gw", ttl=20) as lock:
        print("lock", lock.is_acquired())
    print("delete", client.delete("/gw/c"), client.delete("/gw/c"), client.delete_prefix("/gw/"))


def run(host, port):
    global FIRST
    by_hand = ByHand(host, port)
    FIRST = int(by_hand.post("/v3/kv/range", {"key": "YQ=="}).json()["header"]["revision"])
    revision = calls(by_hand)
    leases_and_members(by_hand)
    streams(by_hand, revision)
    with_etcd3gw(host, port)
