package recovery_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"multiraft/internal/vfs"
	"multiraft/recovery"
	"multiraft/wire"
)

var errCut = errors.New("the power is cut")

// lostCluster is three stores of which one is left, or two of five, with entries
// that nobody else has; and the plan for them.
func lostCluster(t *testing.T, survivors ...wire.StoreID) (*cluster, *recovery.Plan) {
	c := newCluster(t, 5)
	c.open(five...)
	c.start(members(five...), five...)
	c.write(4, five...)
	c.until("store 1 leads", func() bool { return lead(c, 1) })
	c.partition(1)
	d := new(done)
	for range 3 {
		c.propose(d, 1)
	}
	c.tick()
	c.kill(five...)
	c.cut = nil
	return c, c.plan(recovery.Options{}, survivors...)
}

// TestCrashInApply: power is cut at every call of Apply, on the source and on another
// survivor. The disk then has the group as before or as after, is as the plan says
// once Apply has run again, and the survivors serve with all that the source had.
func TestCrashInApply(t *testing.T) {
	const source, other = 1, 2
	for _, at := range []wire.StoreID{source, other} {
		tried, through := 0, false
		for k := uint64(1); !through; k++ {
			for seed, crash := range []vfs.CrashOptions{vfs.AllLost, vfs.PowerFails, vfs.DiskFails, vfs.ProcessDies} {
				c, p := lostCluster(t, source, other)
				before := c.survey(at)[0].Replicas
				disk := c.sites[at].disk
				base := disk.Calls()
				disk.SetHook(func(op vfs.Op) vfs.Fault {
					if op.Call >= base+k {
						return vfs.Fault{Err: errCut}
					}
					return vfs.Fault{}
				})
				confirm, err := p.Confirmation()
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.disk(at).Apply(p, recovery.ApplyOptions{Confirm: confirm})
				if err == nil {
					through = true // there is no such call
					break
				}
				tried++
				c.sites[at].disk = disk.CrashClone(rand.New(rand.NewPCG(k, uint64(seed))), crash)
				where := fmt.Sprintf("store %d, call %d, crash %d", at, k, seed)
				after := c.survey(at)[0].Replicas
				if changed := after[0].Generation > 0; !changed && after[0].Mark != before[0].Mark ||
					changed && at == source && (after[0].Last != p.Groups[0].Floor || after[0].Commit != p.Groups[0].Floor || len(after[0].Members.Members) != 2) {
					t.Errorf("%s: half of it: %+v, before %+v", where, after, before)
				}
				c.apply(p, source, other)
				after = c.survey(at)[0].Replicas
				if after[0].Generation != 1 || at == source && after[0].Last != p.Groups[0].Floor {
					t.Errorf("%s: not as planned: %+v", where, after)
				}
				records, err := c.disk(at).Records()
				if hash, _ := p.Hash(); err != nil || len(records) != 1 || !records[hash] {
					t.Errorf("%s: records %v, %v", where, records, err)
				}
				if k%7 != 0 {
					continue // the disk is as it was in the others
				}
				want := slices.Clone(c.acked)
				c.open(source, other)
				c.start(nil, source, other)
				c.serves(source, other)
				if got := c.sites[other].machine.commands; len(got) < len(want)+3 || !slices.Equal(got[:len(want)], want) {
					t.Errorf("%s: %q, want %q and the 3 that only the source had", where, got, want)
				}
			}
		}
		if tried < 100 {
			t.Errorf("store %d: only %d crashes", at, tried)
		}
	}
}
