package engine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

var errPoison = errors.New("cannot be applied")

// spoiled returns a machine that fails on commands that begin with poison, in one of
// two ways.
func spoiled(panics bool) *ledger {
	return &ledger{apply: func(command []byte) error {
		if !strings.HasPrefix(string(command), "poison") {
			return nil
		}
		if panics {
			panic(errPoison)
		}
		return errPoison
	}}
}

// startSpoiled starts a group with such machines everywhere.
func (c *cluster) startSpoiled(id wire.GroupID, panics bool, skip ...wire.Index) {
	c.t.Helper()
	for store, s := range c.stores {
		machine := spoiled(panics)
		c.machines[store][id] = machine
		if _, err := s.StartGroup(c.ctx(), engine.GroupConfig{ID: id, Members: threeMembers, StateMachine: machine, Skip: skip}); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) stopEverywhere(id wire.GroupID) {
	c.t.Helper()
	for _, s := range c.stores {
		if err := s.StopGroup(c.ctx(), id); err != nil {
			c.t.Fatal(err)
		}
	}
}

// A command that no machine can apply, by an error or a panic, stops its group in
// front of it and no other, says where it is, does so again after each start, of the
// group and of the store, and can be left out by consent.
func TestPoisonedEntry(t *testing.T) {
	t.Parallel()
	for name, panics := range map[string]bool{"error": false, "panic": true} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, nil)
			c.startSpoiled(1, panics)
			c.startAll(2)
			c.propose(1, "a")
			c.propose(2, "a")
			c.converge(1, 1)
			// All in one batch, so that they are likely applied together.
			leader := c.leader(1)
			var n tally
			var pendings [4]engine.Pending
			for i, command := range []string{"b", "poison", "c", "d"} {
				pendings[i].Init(&n)
				if err := leader.ProposeAsync([]byte(command), &pendings[i]); err != nil {
					t.Fatal(err)
				}
			}
			// Two of three may fail before the last of them has heard of it.
			failed := func() (list []*engine.ApplyError) {
				for store := range c.stores {
					var e *engine.ApplyError
					if errors.As(c.group(store, 1).Err(), &e) {
						list = append(list, e)
					}
				}
				return list
			}
			c.until("a majority fails", func() bool { return len(failed()) >= 2 })
			for _, e := range failed() {
				var p *engine.PanicError
				if e.Group != 1 || e.First > e.Last || errors.As(e, &p) != panics || !panics && !errors.Is(e, errPoison) {
					t.Errorf("%v", e)
				}
			}
			c.propose(2, "b")

			// Once more, and the error names the entry; on a store that was opened
			// anew, the second start does.
			c.stopEverywhere(1)
			c.startSpoiled(1, panics)
			c.until("a majority fails again", func() bool { return len(failed()) >= 2 })
			// A store that had not heard of it before has failed for the first time.
			list := failed()
			exact := slices.IndexFunc(list, func(e *engine.ApplyError) bool { return e.First == e.Last })
			if exact < 0 {
				t.Fatalf("no one tells the entry: %v", list)
			}
			at := list[exact]
			for _, e := range list {
				if at.First < e.First || at.First > e.Last {
					t.Errorf("%v, and %v", e, at)
				}
			}
			for store := range c.stores {
				if got := c.machines[store][1].snapshot(); len(got) > 2 {
					t.Errorf("store %d has applied %q", store, got)
				}
			}
			for _, store := range []wire.StoreID{1, 2, 3} {
				c.close(store)
				c.open(store)
			}
			c.startAll(2)
			c.startSpoiled(1, panics)
			c.until("a majority fails over a restart", func() bool { return len(failed()) >= 2 })

			c.stopEverywhere(1)
			c.startSpoiled(1, panics, at.First)
			c.propose(1, "e")
			if got, want := c.converge(1, 5), []string{"a", "b", "c", "d", "e"}; !slices.Equal(got, want) {
				t.Errorf("applied %q, want %q", got, want)
			}
			for store, s := range c.stores {
				if got := s.Metrics().SkippedEntries; got != 1 {
					t.Errorf("store %d left out %d entries", store, got)
				}
			}
			c.propose(2, "c")
			c.converge(2, 3)
		})
	}
}

// One machine of three fails, for a reason of its own: its replica stops, the
// group goes on, and a start of a sound machine catches up.
func TestPoisonOnOneReplica(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	for store, s := range c.stores {
		machine := &ledger{}
		if store == 2 {
			machine = spoiled(true)
		}
		c.machines[store][1] = machine
		if _, err := s.StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers, StateMachine: machine}); err != nil {
			t.Fatal(err)
		}
	}
	c.propose(1, "a")
	// Its leader may be the one that fails; the command takes effect all the same.
	_, err := c.leader(1).Propose(c.ctx(), []byte("poison"))
	var e *engine.ApplyError
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	c.until("its replica stops", func() bool { return errors.As(c.group(2, 1).Err(), &e) })
	c.propose(1, "b")
	if err := c.stores[2].StopGroup(c.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	c.start(2, 1)
	if got, want := c.converge(1, 3), []string{"a", "poison", "b"}; !slices.Equal(got, want) {
		t.Errorf("applied %q, want %q", got, want)
	}
}

func TestSkipIsValidated(t *testing.T) {
	c := newCluster(t, nil)
	_, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers, StateMachine: &ledger{}, Skip: []wire.Index{4, 0}})
	var fault *engine.ConfigError
	if !errors.As(err, &fault) || fault.Field != "Skip" {
		t.Errorf("%v", err)
	}
}
