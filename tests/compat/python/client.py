"""Drives a server with python-etcd3; prints what it sees, without what differs by server."""

import os
import sys

import etcd3

import gateway
import patroni_dcs


def kv(client):
    client.put("/py/a", "1")
    client.put("/py/b", "2")
    client.put("/py/c", "3")
    value, meta = client.get("/py/a")
    print("get", value, meta.key, meta.version)
    print("absent", client.get("/py/none"))
    for value, meta in client.get_prefix("/py/", sort_order="descend", sort_target="key"):
        print("prefix", meta.key, value)
    for value, meta in client.get_range("/py/a", "/py/c"):
        print("range", meta.key, value)
    print("replace", client.replace("/py/a", "1", "one"), client.replace("/py/a", "1", "no"))
    print("put if absent", client.put_if_not_exists("/py/a", "x"), client.put_if_not_exists("/py/d", "4"))
    succeeded, responses = client.transaction(
        compare=[
            client.transactions.value("/py/a") == "one",
            client.transactions.version("/py/a") > 1,
            client.transactions.create("/py/none") == 0,
        ],
        success=[
            client.transactions.put("/py/e", "5"),
            client.transactions.get("/py/a"),
            client.transactions.delete("/py/b"),
        ],
        failure=[client.transactions.get("/py/c")],
    )
    print("txn", succeeded, len(responses), responses[1][0][0])
    print("delete", client.delete("/py/c"), client.delete("/py/c"))
    print("delete prefix", client.delete_prefix("/py/").deleted)


def leases(client):
    lease = client.lease(600)
    client.put("/py/leased", "x", lease=lease)
    print("granted", lease.granted_ttl, lease.keys, 0 < lease.remaining_ttl <= 600)
    print("refresh", [answer.TTL for answer in lease.refresh()])
    lease.revoke()
    print("after revoke", client.get("/py/leased"))


def watches(client):
    first = client.put("/py/w/0", "start").header.revision
    events, cancel = client.watch_prefix("/py/w/", start_revision=first)
    client.put("/py/w/1", "a")
    client.delete("/py/w/1")
    client.put("/py/w/2", "b")
    for _ in range(4):
        event = next(events)
        print("event", type(event).__name__, event.key, event.value)
    cancel()


def locks(client):
    # A second acquire while the lock is taken stops inside python-etcd3 0.12 itself: its wait
    # function no longer fits the tenacity that it asks for. So locks are taken in turn.
    for _ in range(3):
        lock = client.lock("name", ttl=20)
        print("acquired", lock.acquire(timeout=5), lock.is_acquired(), lock.refresh()[0].TTL)
        print("released", lock.release(), lock.is_acquired())


def main():
    host, port = sys.argv[2].split(",")[0].removeprefix("http://").split(":")
    in_json = {"gateway": gateway.run, "patroni": patroni_dcs.run}
    if sys.argv[1] in in_json:
        in_json[sys.argv[1]](host, int(port))
        sys.stdout.flush()
        # Patroni's watchers never end by themselves.
        os._exit(0)
    client = etcd3.client(host=host, port=int(port), timeout=10)
    parts = {"kv": kv, "lease": leases, "watch": watches, "lock": locks}
    if sys.argv[1] not in parts:
        sys.exit(64)
    parts[sys.argv[1]](client)


main()
