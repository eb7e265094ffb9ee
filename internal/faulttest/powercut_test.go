//go:build linux

package faulttest

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"multiraft/wire"
)

// TestPowerCut takes the power away from a file system on which stores run under
// load, again and again. In one round of four the power is gone while they open.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		stores int
		rounds int
	}{
		// Alone, a store can hide nothing behind its peers.
		{"one store", 1, pick(5, 38, 5000)},
		{"three stores at once", 3, pick(2, 14, 5000)},
	} {
		t.Run(c.name, func(t *testing.T) { powerCuts(t, c.stores, c.rounds) })
	}
}

func powerCuts(t *testing.T, stores, rounds int) {
	v := newVolume(t, 256*mib)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, stores), SegmentBytes: 256 << 10}, 16)
	rng := rand.New(rand.NewPCG(uint64(rounds), uint64(stores)))
	opening, made := 0, int64(0)
	for round := range rounds {
		v.mount()
		if round%4 == 3 {
			started := make(chan error, 1)
			go func() { started <- c.StartAll() }()
			// A start takes about as long; whatever moment it is, it is a good one.
			must(t, pause(t.Context(), time.Duration(rng.IntN(int(60*time.Millisecond)))))
			v.cut()
			var open *OpenError
			if err := <-started; err != nil && !errors.As(err, &open) {
				t.Fatal(err)
			} else if err != nil {
				opening++
			}
		} else {
			must(t, c.StartAll())
			l.Begin()
			answers(t, l, 1+rng.IntN(300))
			h, err := c.Health(t.Context(), 1)
			must(t, err)
			made += h.Health.Made
			v.cut()
			l.End()
		}
		c.KillAll()
		v.unmount()
	}
	v.mount()
	verify(t, c, l)
	t.Logf("power was cut %d times, %d times while a store opened; %d operations, %d keys; %d snapshots", rounds, opening, l.History.Len(), l.lastKey, made)
	c.KillAll()
	v.unmount()
}

// TestPowerCutFindsLostWrites has the kernel only pretend that it syncs. If that
// is not found, TestPowerCut proves nothing.
func TestPowerCutFindsLostWrites(t *testing.T) {
	t.Parallel()
	v := newVolume(t, 64*mib)
	lie := true
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, 1), SegmentBytes: 256 << 10, Wrap: func(wire.StoreID) []string {
		if lie {
			return straceLine(t, "inject=fdatasync,fsync:retval=0")
		}
		return nil
	}}, 8)
	v.mount()
	must(t, c.StartAll())
	l.Begin()
	answers(t, l, 200)
	v.cut()
	l.End()
	c.KillAll()
	v.unmount()
	v.mount()
	lie = false
	err := c.Heal()
	if err == nil {
		err = l.Verify(t.Context())
	}
	var lost *HistoryError
	var open *OpenError
	if !errors.As(err, &lost) && !errors.As(err, &open) {
		t.Errorf("200 operations were acknowledged without a sync, and after the power was cut: %v", err)
	}
	c.KillAll()
	v.unmount()
}
