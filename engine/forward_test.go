package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"multiraft/engine"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// forwarding switches forwarding on.
func forwarding(cfg *engine.Config) { cfg.ForwardProposals = true }

// A proposal on a follower is appended by the leader, and its result is that of the
// leader's state machine. All levels of the API forward.
func TestForwardedProposals(t *testing.T) {
	c := newCluster(t, forwarding)
	c.startAll(1)
	leader := c.leader(1)
	for id := range c.stores {
		g := c.group(id, 1)
		if err := g.WaitLeader(c.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	var others []*engine.Group
	for id, store := range c.stores {
		if store != leader.Store() {
			others = append(others, c.group(id, 1))
		}
	}
	const each = 50
	var wait sync.WaitGroup
	values := make([][]uint64, len(others))
	for at, g := range others {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range each {
				result, err := g.Propose(c.ctx(), fmt.Appendf(nil, "%d/%d", at, i))
				if err != nil {
					t.Error(err)
					return
				}
				values[at] = append(values[at], result.Value)
			}
		}()
	}
	wait.Wait()
	var batch engine.Batch
	for i := range 10 {
		batch.Add(others[0], number(i))
	}
	if err := others[0].Store().ProposeBatch(&batch); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(batch.Wait(c.ctx()), batch.Err()); err != nil {
		t.Fatal(err)
	}
	commands := c.converge(1, 2*each+10)
	if len(commands) != 2*each+10 {
		t.Fatalf("%d commands applied, want %d", len(commands), 2*each+10)
	}
	for at := range values {
		for i, value := range values[at] {
			if got, want := commands[value-1], fmt.Sprintf("%d/%d", at, i); got != want {
				t.Errorf("result %d stands for %q, want %q", value, got, want)
			}
		}
		if !slices.IsSorted(values[at]) {
			t.Errorf("commands of one client were reordered: %v", values[at])
		}
	}
	if m := others[0].Store().Metrics(); m.Forwarded < each || m.InflightBytes != 0 {
		t.Errorf("%d forwarded, %d bytes in flight", m.Forwarded, m.InflightBytes)
	}
	if m := leader.Store().Metrics(); m.InflightBytes != 0 {
		t.Errorf("%d bytes in flight on the leader's store", m.InflightBytes)
	}
}

// While leaders come and go, forwarded commands are applied once or not at all:
// once when they succeed, not at all when they are refused.
func TestForwardedProposalsAreNeverDoubled(t *testing.T) {
	c := newCluster(t, forwarding)
	c.startAll(1)
	c.leader(1)
	ctx, cancel := context.WithCancel(c.ctx())
	var wait sync.WaitGroup
	var mu sync.Mutex
	outcome, good := map[string]error{}, 0
	for id := range c.stores {
		g := c.group(id, 1)
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := 0; ctx.Err() == nil; i++ {
				command := fmt.Sprintf("%d/%d", id, i)
				_, err := g.Propose(c.ctx(), []byte(command))
				mu.Lock()
				outcome[command] = err
				if err == nil {
					good++
				}
				mu.Unlock()
				if err := g.WaitLeader(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for round := range 6 {
		c.until("more commands", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return good > 20*round
		})
		leader := c.leader(1)
		to := wire.ReplicaID(round%3 + 1)
		if err := leader.TransferLeader(c.ctx(), to); err != nil && !errors.Is(err, engine.ErrTransferFailed) && !errors.Is(err, engine.ErrNoLeader) {
			t.Fatal(err)
		}
	}
	cancel()
	wait.Wait()
	applied := map[string]int{}
	c.propose(1, "last")
	for _, command := range c.converge(1, 1) {
		applied[command]++
	}
	for command, err := range outcome {
		var notLeader *engine.NotLeaderError
		n := applied[command]
		switch {
		case n > 1:
			t.Errorf("%s was applied %d times, %v", command, n, err)
		case err == nil && n != 1:
			t.Errorf("%s succeeded and was applied %d times", command, n)
		case n > 0 && (errors.As(err, &notLeader) || errors.Is(err, engine.ErrBusy) || errors.Is(err, engine.ErrTransferring) || errors.Is(err, engine.ErrProposalDropped)):
			t.Errorf("%s was refused with %v and applied", command, err)
		}
	}
}

// forwardCluster is a stepped cluster of one group whose stores forward. It
// returns the leader and a follower.
func forwardCluster(t *testing.T, change func(*engine.Config)) (c *steppedCluster, leader, follower *engine.Group) {
	c = newSteppedClusterWith(t, 1, func(cfg *engine.Config) {
		cfg.ForwardProposals = true
		if change != nil {
			change(cfg)
		}
	})
	leader = c.groups[0]
	for _, s := range c.stores {
		if g, ok := s.Group(1); ok && s != leader.Store() {
			follower = g
		}
	}
	return c, leader, follower
}

// keep takes what waits for the leader's store out of the network.
func (c *steppedCluster) keep(store *engine.Store) []relayFrame {
	end := c.relay.stores[store.ID()]
	frames := slices.Clone(end.inbox)
	end.inbox = end.inbox[:0]
	return frames
}

// isAnswer says whether a frame holds results of forwarded proposals.
func isAnswer(_, _ wire.StoreID, payload []byte) bool {
	return len(payload) > 0 && wire.MessageKind(payload[0]) == wire.ProposeResponse
}

// stepOf returns what steps the store of a group.
func (c *steppedCluster) stepOf(g *engine.Group) *engine.Stepper {
	return c.steps[slices.Index(c.stores, g.Store())]
}

// transfer has another replica lead.
func (c *steppedCluster) transfer(leader *engine.Group, to wire.ReplicaID) {
	c.t.Helper()
	done := make(chan error, 1)
	go func() { done <- leader.TransferLeader(c.t.Context(), to) }()
	for len(done) == 0 {
		c.settle() // no time passes
	}
	if err := <-done; err != nil || leader.IsLeader() {
		c.t.Fatalf("leadership was not transferred: %v", err)
	}
}

func (c *steppedCluster) give(store *engine.Store, frames []relayFrame) {
	end := c.relay.stores[store.ID()]
	end.inbox = append(end.inbox, frames...)
}

// A request that the network repeats is taken once, also when the second copy
// comes after the leader has lost its leadership: a refusal would make the origin
// send it again.
func TestForwardedRequestIsTakenOnce(t *testing.T) {
	for _, loses := range []bool{false, true} {
		c, leader, follower := forwardCluster(t, nil)
		var count tally
		pending := engine.NewPending(&count)
		if err := follower.ProposeAsync([]byte("once"), pending); err != nil {
			t.Fatal(err)
		}
		c.stepOf(follower).Worker(0)
		frames := c.keep(leader.Store())
		c.give(leader.Store(), frames)
		c.relay.stores[leader.Store().ID()].deliver()
		c.stepOf(leader).Worker(0)
		if loses {
			// The answers are lost, and then the leadership.
			c.relay.loses = isAnswer
			c.transfer(leader, follower.Status().Self.Replica)
			c.relay.loses = nil
		}
		c.give(leader.Store(), frames)
		for range 100 {
			c.tick()
		}
		applied := uint64(0)
		if err := follower.ReadAsync(nil, func(value any, err error) { applied, _ = value.(uint64) }); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if applied != 1 || count.done != 1 {
			t.Errorf("loses=%v: applied %d times, %d answers", loses, applied, count.done)
		}
	}
}

// A request that the leader never gets, and one whose answer is lost, end with
// ErrNoAnswer, and give back their budget.
func TestForwardedWithoutAnswer(t *testing.T) {
	for _, lost := range []string{"request", "answer"} {
		c, leader, follower := forwardCluster(t, nil)
		var count tally
		pending := engine.NewPending(&count)
		if err := follower.ProposeAsync([]byte("lost"), pending); err != nil {
			t.Fatal(err)
		}
		c.stepOf(follower).Worker(0)
		if lost == "request" {
			c.keep(leader.Store())
		} else {
			c.relay.loses = isAnswer
		}
		for range 200 {
			c.tick()
		}
		if _, err := pending.Result(); count.done != 1 || !errors.Is(err, engine.ErrNoAnswer) {
			t.Errorf("%s lost: %d answers, %v", lost, count.done, err)
		}
		if n := follower.Store().Metrics().InflightBytes; n != 0 {
			t.Errorf("%s lost: %d bytes in flight", lost, n)
		}
	}
}

// A leader without budget refuses at once, and the origin hears ErrBusy.
func TestForwardedToABusyLeader(t *testing.T) {
	c, leader, follower := forwardCluster(t, func(cfg *engine.Config) {
		cfg.MaxCommandBytes = 1000
		cfg.MaxGroupInflightBytes = 2000
	})
	var own, count tally
	filling := engine.NewPending(&own)
	if err := leader.ProposeAsync(make([]byte, 1000), filling); err != nil {
		t.Fatal(err)
	}
	c.stepOf(leader).Worker(0) // on its way to the log
	big, small := engine.NewPending(&count), engine.NewPending(&count)
	for _, p := range []*engine.Pending{big, small} {
		if err := follower.ProposeAsync(make([]byte, 900), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := follower.ProposeAsync(make([]byte, 900), engine.NewPending(&count)); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("the third in flight: %v", err)
	}
	c.stepOf(follower).Worker(0)
	c.relay.stores[leader.Store().ID()].deliver()
	c.stepOf(leader).Worker(0)
	c.settle()
	for _, p := range []*engine.Pending{big, small} {
		if _, err := p.Result(); !errors.Is(err, engine.ErrBusy) {
			t.Errorf("forwarded to a busy leader: %v", err)
		}
	}
	if own.done != 1 || own.failed != 0 || count.done != 2 {
		t.Errorf("own %+v, forwarded %+v", own, count)
	}
}

// Without a leader nothing is queued, and the refusal is certain.
func TestForwardingNeedsALeader(t *testing.T) {
	c := newCluster(t, forwarding)
	g := c.start(1, 1) // the others do not run the group
	var notLeader *engine.NotLeaderError
	if _, err := g.Propose(c.ctx(), []byte("x")); !errors.As(err, &notLeader) || !strings.Contains(err.Error(), "no leader is known") {
		t.Errorf("got %v", err)
	}
}

// A leader whose store fails tells the followers nothing about what they forwarded: it
// may be in the logs of others, and be committed by the next leader.
func TestFailedStoreAnswersNoForwarded(t *testing.T) {
	for _, fails := range []bool{false, true} {
		c := newWarpCluster(t, 3, false, false, func(cfg *engine.Config) { cfg.ForwardProposals = true })
		c.write(1, 1)
		at := c.leader(1)
		p := c.places[at]
		if fails {
			p.fs.SetHook(func(vfs.Op) vfs.Fault { return vfs.Fault{Err: errors.New("broken")} })
		}
		answers := 0
		c.pass = func(from, _ wire.StoreID, m *wire.Message) bool {
			if from == p.id && m.Kind == wire.ProposeResponse {
				answers++
			}
			return true
		}
		if err := c.group(c.follower(), 1).ProposeAsync([]byte("x"), engine.NewPending(&c.count)); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if failed := p.store.Err() != nil; failed != fails {
			t.Fatalf("the store has failed: %t, want %t", failed, fails)
		}
		if want := map[bool]int{false: 1, true: 0}[fails]; answers != want {
			t.Errorf("the store fails: %t; %d answers, want %d", fails, answers, want)
		}
	}
}
