"""Two members of a Patroni cluster, without their databases: Patroni's own code keeps its state in etcd."""

import logging
import threading
import time

from patroni.dcs import get_dcs

TTL = 20


def member(name, host, port):
    config = {
        "etcd3": {"hosts": [f"{host}:{port}"]},
        "scope": "batman",
        "name": name,
        "namespace": "/service/",
        "ttl": TTL,
        "loop_wait": 2,
        "retry_timeout": 5,
    }
    return get_dcs(config)


def show(when, dcs):
    # Each keeps what it has seen, and hears of what the other one did a moment later.
    time.sleep(0.5)
    cluster = dcs.get_cluster()
    print(
        when,
        "leader", cluster.leader and cluster.leader.name,
        "members", sorted((one.name, one.data.get("state")) for one in cluster.members),
        "config", cluster.config and cluster.config.data,
        "optime", cluster.status.last_lsn,
        "initialize", cluster.initialize,
        "failover", cluster.failover and cluster.failover.candidate,
    )
    return cluster


def woken_by(dcs, change):
    """Whether a watcher of the leader's key wakes up at a change, long before its time is up."""
    begin = time.monotonic()
    timer = threading.Timer(1, change)
    timer.start()
    dcs.watch(dcs.cluster.leader and dcs.cluster.leader.version, 15)
    timer.join()
    return time.monotonic() - begin < 10


def both(what, first, second=None):
    print(what, *[bool(answer) for answer in (first, second) if answer is not None])


def run(host, port):
    logging.disable(logging.CRITICAL)
    one, two = member("one", host, port), member("two", host, port)
    show("at first", one)
    both("initialize", one.initialize(), two.initialize())
    both("leader", one.attempt_to_acquire_leader(), two.attempt_to_acquire_leader())
    both("initialized", one.initialize(create_new=False, sysid="4711"))
    both("config", one.set_config_value('{"ttl":20}'))
    both("touch", one.touch_member({"state": "running"}), two.touch_member({"state": "streaming"}))
    cluster = show("with a leader", two)
    both("update", one.update_leader(cluster, 1000), two.update_leader(cluster, 2000))
    show("updated", two)
    both("failover", two.manual_failover("one", "two"))
    show("failover asked for", one)
    both("woken", woken_by(two, lambda: one.delete_leader(one.get_cluster().leader)))
    both("leader", two.attempt_to_acquire_leader(), one.attempt_to_acquire_leader())
    show("handed over", one)
    both("with an old version", two.set_config_value("{}", version="1"))
    both("delete", one.delete_cluster())
    show("deleted", one)
