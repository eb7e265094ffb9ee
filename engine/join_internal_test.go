package engine

import (
	"context"
	"testing"

	"multiraft/internal/vfs"
	"multiraft/wire"
)

// A leader wants a replica that the embedder has just started by itself, and of which
// nothing is durable yet: nobody is asked for a second state machine.
func TestJoinOfARunningReplica(t *testing.T) {
	asked := 0
	s, steps, err := OpenStepped(Config{Cluster: 1, ID: 2, Dir: "/store", Transport: nowhere{}, FS: vfs.New(vfs.Options{}), Seed: 1,
		Join: func(JoinRequest) (GroupConfig, error) {
			asked++
			return GroupConfig{StateMachine: &pausing{}}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := steps.Close(); err != nil {
			t.Error(err)
		}
	})
	wish := func(id wire.GroupID) {
		s.mu.RLock()
		s.wantJoin(1, &wire.Message{Kind: wire.Join, Group: id, From: 1, To: 7})
		s.mu.RUnlock()
	}
	wish(1)
	if _, err := s.StartGroup(context.Background(), GroupConfig{ID: 1, Replica: 7, Join: true, StateMachine: &pausing{}}); err != nil {
		t.Fatal(err)
	}
	if !steps.Join() || asked != 0 {
		t.Errorf("asked %d times", asked)
	}
	wish(2)
	if !steps.Join() || asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if _, runs := s.Group(2); !runs {
		t.Error("group 2 does not run")
	}
}
