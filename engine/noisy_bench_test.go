package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

// BenchmarkNoisyGroup measures what one group that takes all it is let in costs the
// writes to others, one at a time, on three stores with real disks and threads. All
// logs are on one disk here, so what the noisy group writes is in their way too.
func BenchmarkNoisyGroup(b *testing.B) {
	const groups, clients = 256, 512
	for _, run := range []struct {
		noise  int
		budget int64 // of a group; zero is the default
	}{{0, 0}, {128, 0}, {1 << 10, 0}, {16 << 10, 0}, {16 << 10, 256 << 10}} {
		noise := run.noise
		b.Run(fmt.Sprintf("noise=%dB/budget=%d", noise, run.budget), func(b *testing.B) {
			c := newCluster(b, func(cfg *engine.Config) {
				cfg.TickInterval, cfg.MaxGroupInflightBytes = 100*time.Millisecond, run.budget
				cfg.MaxCommandBytes = 64 << 10
			})
			leaders := make([]*engine.Group, groups)
			for id := range wire.GroupID(groups) {
				for _, store := range c.stores {
					if _, err := store.StartGroup(c.ctx(), engine.GroupConfig{ID: id + 1, Members: threeMembers, StateMachine: &countingMachine{}}); err != nil {
						b.Fatal(err)
					}
				}
			}
			for at := range leaders {
				leaders[at] = c.leader(wire.GroupID(at + 1))
			}
			ctx, cancel := context.WithCancel(b.Context())
			var wait sync.WaitGroup
			n := clients
			switch {
			case noise == 0:
				n = 0
			case run.budget > 0: // who is refused and tries again at once takes the processor from all
				n = int(run.budget) / wire.PayloadBytes(noise)
			}
			for range n {
				wait.Go(func() {
					command := make([]byte, noise)
					for {
						_, err := leaders[0].Propose(ctx, command)
						if ctx.Err() != nil {
							return
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			var took []time.Duration
			at := 0
			for b.Loop() {
				at = at%(groups-1) + 1
				began := time.Now()
				if _, err := leaders[at].Propose(ctx, []byte("x")); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			cancel()
			wait.Wait()
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
			b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
			b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
		})
	}
}
