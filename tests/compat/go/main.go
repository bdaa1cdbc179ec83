// Drives a server with etcd's own Go client; prints what it sees, without what differs by server.
//
//	client PART ENDPOINT,ENDPOINT...
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// limit bounds each part: a server that hangs is a failure, not a wait.
const limit = 60 * time.Second

func main() {
	parts := map[string]func(context.Context, *clientv3.Client) error{
		"kv": kv, "lease": leases, "watch": watches, "lock": locks, "election": election,
		"held": held,
	}
	part, ok := parts[os.Args[1]]
	if !ok {
		fmt.Println("no such part:", os.Args[1])
		os.Exit(64)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(os.Args[2], ","),
		DialTimeout: 5 * time.Second,
	})
	if err == nil {
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err = part(ctx, client)
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func kv(ctx context.Context, c *clientv3.Client) error {
	for i := 0; i < 5; i++ {
		if _, err := c.Put(ctx, fmt.Sprintf("/go/%d", i), fmt.Sprint(i)); err != nil {
			return err
		}
	}
	got, err := c.Get(ctx, "/go/", clientv3.WithPrefix(), clientv3.WithLimit(3),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return err
	}
	fmt.Println("get", got.Count, got.More)
	for _, kv := range got.Kvs {
		fmt.Printf("  %s = %s, version %d\n", kv.Key, kv.Value, kv.Version)
	}
	txn, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("/go/0"), "=", "0"),
			clientv3.Compare(clientv3.Version("/go/"), ">", 0).WithPrefix()).
		Then(clientv3.OpPut("/go/0", "zero", clientv3.WithPrevKV()),
			clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("/go/0")}, nil)).
		Else(clientv3.OpGet("/go/0")).Commit()
	if err != nil {
		return err
	}
	fmt.Println("txn", txn.Succeeded, string(txn.Responses[0].GetResponsePut().PrevKv.Value),
		string(txn.Responses[1].GetResponseTxn().Responses[0].GetResponseRange().Kvs[0].Value))
	deleted, err := c.Delete(ctx, "/go/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	fmt.Println("deleted", deleted.Deleted, len(deleted.PrevKvs))
	_, err = c.Put(ctx, "", "x")
	fmt.Println("empty key:", err)
	_, err = c.Get(ctx, "/go/", clientv3.WithRev(1<<40))
	fmt.Println("future:", err)
	if _, err = c.Compact(ctx, deleted.Header.Revision); err != nil {
		return err
	}
	_, err = c.Get(ctx, "/go/", clientv3.WithRev(deleted.Header.Revision-1))
	fmt.Println("compacted:", err)
	members, err := c.MemberList(ctx)
	if err != nil {
		return err
	}
	fmt.Println("members", len(members.Members))
	return nil
}

func leases(ctx context.Context, c *clientv3.Client) error {
	lease, err := c.Grant(ctx, 600)
	if err != nil {
		return err
	}
	if _, err = c.Put(ctx, "/go/leased", "x", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	alive, err := c.KeepAliveOnce(ctx, lease.ID)
	if err != nil {
		return err
	}
	left, err := c.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	fmt.Println("lease", lease.TTL, alive.TTL, left.GrantedTTL, left.TTL > 590, len(left.Keys))
	if _, err = c.Revoke(ctx, lease.ID); err != nil {
		return err
	}
	got, err := c.Get(ctx, "/go/leased")
	if err != nil {
		return err
	}
	fmt.Println("after revoke", got.Count)
	_, err = c.Revoke(ctx, lease.ID)
	fmt.Println("revoked twice:", err)
	short, err := c.Grant(ctx, 2)
	if err != nil {
		return err
	}
	if _, err = c.Put(ctx, "/go/short", "x", clientv3.WithLease(short.ID)); err != nil {
		return err
	}
	for r := range c.Watch(ctx, "/go/short", clientv3.WithRev(got.Header.Revision+1)) {
		for _, e := range r.Events {
			fmt.Printf("%s %s\n", e.Type, e.Kv.Key)
			if e.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return ctx.Err()
}

// watches follows a prefix, and then again from a revision: nothing is lost or seen twice.
func watches(ctx context.Context, c *clientv3.Client) error {
	before, err := c.Get(ctx, "/services/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	go func() {
		for i := 0; i < 10; i++ {
			c.Put(ctx, fmt.Sprintf("/services/%d", i), "up")
		}
		c.Delete(ctx, "/services/", clientv3.WithPrefix())
	}()
	for pass := 0; pass < 2; pass++ {
		seen := 0
		from := clientv3.WithRev(before.Header.Revision + 1)
		inner, cancel := context.WithCancel(ctx)
		for r := range c.Watch(inner, "/services/", clientv3.WithPrefix(), from, clientv3.WithPrevKV()) {
			if r.Err() != nil {
				cancel()
				return r.Err()
			}
			for _, e := range r.Events {
				seen++
				if e.Type == clientv3.EventTypePut {
					fmt.Printf("PUT: %s = %s\n", e.Kv.Key, e.Kv.Value)
				} else {
					fmt.Printf("DELETE: %s, was %s\n", e.Kv.Key, e.PrevKv.Value)
				}
			}
			if seen >= 20 {
				cancel()
			}
		}
		cancel()
		fmt.Println("events", seen)
	}
	return nil
}

func locks(ctx context.Context, c *clientv3.Client) error {
	for i := 0; i < 3; i++ {
		session, err := concurrency.NewSession(c, concurrency.WithTTL(30))
		if err != nil {
			return err
		}
		mutex := concurrency.NewMutex(session, "/locks/order")
		if err := mutex.Lock(ctx); err != nil {
			return fmt.Errorf("failed to acquire lock: %w", err)
		}
		second, err := concurrency.NewSession(c, concurrency.WithTTL(30))
		if err != nil {
			return err
		}
		other := concurrency.NewMutex(second, "/locks/order")
		fmt.Println("locked, another try:", other.TryLock(ctx))
		done := make(chan error)
		go func() { done <- other.Lock(ctx) }()
		if err := mutex.Unlock(ctx); err != nil {
			return err
		}
		fmt.Println("the waiter got it:", <-done)
		if err := other.Unlock(ctx); err != nil {
			return err
		}
		session.Close()
		second.Close()
	}
	return nil
}

func election(ctx context.Context, c *clientv3.Client) error {
	session, err := concurrency.NewSession(c, concurrency.WithTTL(30))
	if err != nil {
		return err
	}
	defer session.Close()
	e := concurrency.NewElection(session, "/election")
	if err := e.Campaign(ctx, "first"); err != nil {
		return err
	}
	leader, err := e.Leader(ctx)
	if err != nil {
		return err
	}
	fmt.Println("leader", string(leader.Kvs[0].Value))
	if err := e.Proclaim(ctx, "still first"); err != nil {
		return err
	}
	if leader, err = e.Leader(ctx); err != nil {
		return err
	}
	fmt.Println("leader", string(leader.Kvs[0].Value))
	if err := e.Resign(ctx); err != nil {
		return err
	}
	_, err = e.Leader(ctx)
	fmt.Println("after resigning:", err)
	return nil
}

// held keeps a lock while the caller kills the leader: it says so, and goes on when it reads a line.
func held(ctx context.Context, c *clientv3.Client) error {
	session, err := concurrency.NewSession(c, concurrency.WithTTL(30))
	if err != nil {
		return err
	}
	defer session.Close()
	mutex := concurrency.NewMutex(session, "/locks/held")
	if err := mutex.Lock(ctx); err != nil {
		return err
	}
	fmt.Println("locked")
	var line string
	fmt.Scanln(&line)
	txn, err := c.Txn(ctx).If(mutex.IsOwner()).Then(clientv3.OpPut("/fenced", "x")).Commit()
	for tries := 0; err != nil && tries < 20; tries++ {
		time.Sleep(200 * time.Millisecond)
		txn, err = c.Txn(ctx).If(mutex.IsOwner()).Then(clientv3.OpPut("/fenced", "x")).Commit()
	}
	if err != nil {
		return err
	}
	select {
	case <-session.Done():
		fmt.Println("the session is gone")
	default:
		fmt.Println("still the owner:", txn.Succeeded)
	}
	return mutex.Unlock(ctx)
}
