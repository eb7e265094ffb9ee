package transport

import (
	"errors"
	"testing"

	"multiraft/wire"
)

func TestNetworkCutAndHeal(t *testing.T) {
	noLeak(t)
	n := NewNetwork(NetworkConfig{Cluster: testCluster})
	a, b, c := n.Transport(1), n.Transport(2), n.Transport(3)
	ra, rb, rc := mustStart(t, a), mustStart(t, b), mustStart(t, c)
	for _, r := range []*recorder{ra, rb, rc} {
		r.await(upEvent)
		r.await(upEvent)
	}
	n.Cut(2, 1)
	n.Cut(1, 2) // twice is once
	for _, r := range []*recorder{ra, rb} {
		if e := r.await(downEvent); !errors.Is(e.err, ErrCut) || e.peer == 3 {
			t.Fatalf("after the cut: %+v", e)
		}
	}
	if err := a.Send(3, wire.Urgent, []byte{0, 'c'}); err != nil {
		t.Fatal(err)
	}
	if e := rc.await(frameEvent); e.peer != 1 {
		t.Fatalf("the link that was not cut: %+v", e)
	}
	// Across the cut frames wait, to arrive once it is healed.
	if err := a.Send(2, wire.Urgent, []byte{0, 'b'}); err != nil {
		t.Fatal(err)
	}
	n.Heal(1, 2)
	n.Heal(1, 2)
	ra.await(upEvent)
	rb.await(upEvent)
	if e := rb.await(frameEvent); e.payload[1] != 'b' {
		t.Fatalf("after healing: %+v", e)
	}
	mustClose(t, a, b, c)
	for _, r := range []*recorder{ra, rb, rc} {
		r.none(upEvent)
	}
}

// A link cut before its stores start stays cut, and healing what was never cut,
// or never joined, is nothing.
func TestNetworkCutBeforeStart(t *testing.T) {
	noLeak(t)
	n := NewNetwork(NetworkConfig{})
	n.Cut(1, 2)
	a, b := n.Transport(1), n.Transport(2)
	ra, rb := mustStart(t, a), mustStart(t, b)
	n.Heal(1, 3)
	n.Heal(1, 2)
	ra.await(upEvent)
	rb.await(upEvent)
	mustClose(t, a)
	n.Cut(1, 2)
	n.Heal(1, 2)
	mustClose(t, b)
	ra.none(upEvent)
	rb.none(upEvent)
}

// Each Transport call for a store is its next life.
func TestNetworkIncarnations(t *testing.T) {
	n := NewNetwork(NetworkConfig{})
	for want := uint64(1); want < 4; want++ {
		if got := n.Transport(5).Incarnation(); got != want {
			t.Fatalf("incarnation %d, want %d", got, want)
		}
	}
	if err := n.Transport(0).Start(nil); err == nil {
		t.Error("store 0 started")
	}
}
