package group

import (
	"errors"
	"strings"
	"testing"

	"multiraft/wire"
)

func TestConfigNamesAllFaults(t *testing.T) {
	bad := Config{
		Tuning: &Tuning{ElectionTicks: 2, HeartbeatTicks: 5, MaxTailBytes: -1},
		Members: &wire.Membership{Members: []wire.Member{
			{Replica: 4, Role: wire.Voter | wire.Learner},
			{Replica: 4, Role: wire.Voter},
			{Replica: 0, Role: wire.Voter},
			{Replica: 5},
		}},
	}
	_, err := New(bad)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"Group: must not be zero",
		"Replica: must not be zero",
		"Storage: must not be nil",
		"Rand: must not be nil",
		"ElectionTicks: 2 must exceed HeartbeatTicks (5)",
		"MaxTailBytes: -1 must be between 1 and",
		"Members[0]: replica 4 must not be voter and learner",
		"Members[1]: replica 4 must be there once",
		"Members[2]: replica must not be zero",
		"Members[3]: replica 5 has no role",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
}

func TestConfigMembers(t *testing.T) {
	good := Config{Group: 1, Replica: 2, Storage: &memLog{}, Rand: fixedRand(0), Members: members(3)}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"Members: must not be nil":          func(c *Config) { c.Members = nil },
		"Members: must hold a voter":        func(c *Config) { c.Members = learners(2) },
		"Members: must hold Replica (9)":    func(c *Config) { c.Replica = 9 },
		"Members: 17 must be at most 16":    func(c *Config) { c.Members = members(17) },
		"HeartbeatTicks: -1 must be betwee": func(c *Config) { c.Tuning = &Tuning{HeartbeatTicks: -1} },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func learners(n int) *wire.Membership {
	m := members(n)
	for i := range m.Members {
		m.Members[i].Role = wire.Learner
	}
	return m
}

// TestTuningIsShared: a complete Tuning is used as it is, so that a million
// groups have one.
func TestTuningIsShared(t *testing.T) {
	full := Tuning{ElectionTicks: 7}.WithDefaults()
	if got := tuningOrDefault(&full); got != &full {
		t.Error("a complete Tuning was copied")
	}
	part := &Tuning{ElectionTicks: 7}
	if got := tuningOrDefault(part); got == part || *got != full || part.HeartbeatTicks != 0 {
		t.Errorf("got %+v, left %+v", got, part)
	}
	if got := tuningOrDefault(nil); got.ElectionTicks != 20 || got.Validate() != nil {
		t.Errorf("got %+v", got)
	}
}

// failingLog is a Storage whose terms cannot be read.
type failingLog struct{ memLog }

var errDisk = errors.New("disk is gone")

func (l *failingLog) Last() wire.Index                   { return 3 }
func (l *failingLog) Term(wire.Index) (wire.Term, error) { return 0, errDisk }

// TestFaultIsTyped: what is wrong with the stored state comes with the place and
// the rule, and the reason can be asked for.
func TestFaultIsTyped(t *testing.T) {
	_, err := New(Config{Group: 7, Replica: 2, Storage: &failingLog{}, Rand: fixedRand(0), Members: members(3)})
	var fault *FaultError
	if !errors.As(err, &fault) || fault.Group != 7 || fault.Replica != 2 || fault.Rule != "G12" || fault.Index != 3 || !errors.Is(err, errDisk) {
		t.Fatalf("%+v", err)
	}
}

// TestFaultedGroupIsSilent: G13 and the like stop a group for good.
func TestFaultedGroupIsSilent(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 2/1")
	lead(t, n)
	if _, _, err := n.g.Propose(commands("x"), 1); err != nil {
		t.Fatal(err)
	}
	m := wire.Message{Kind: wire.Heartbeat, Group: 1, From: 2, To: 1, Term: n.g.Term()}
	want := n.g.Step(&m)
	if want == nil || n.g.Err() == nil {
		t.Fatal("a second leader is no fault")
	}
	n.g.Tick(1 << 20)
	n.g.Applied(1)
	n.g.Persisted(Ack{Seq: 1})
	n.g.Unreachable(2)
	_, _, err := n.g.Propose(commands("x"), 1)
	for _, got := range []error{err, n.g.Step(&m), n.g.ReadIndex(1), n.g.Campaign(), n.g.Err()} {
		if got != want {
			t.Errorf("%v, want the fault", got)
		}
	}
	if n.g.HasReady() || n.g.Ready(&n.rd) || n.g.Deadline() != never {
		t.Error("a faulted group has work")
	}
}

// TestProposeChecksPayloads: a block that followers would refuse is not appended.
func TestProposeChecksPayloads(t *testing.T) {
	n := thesisGroup(t, 1, "")
	if _, _, err := n.g.Propose(commands("x"), 1); err != ErrNotLeader {
		t.Fatalf("%v", err)
	}
	if err := n.g.Campaign(); err != nil {
		t.Fatal(err)
	}
	out(n)
	for name, b := range map[string]wire.Block{
		"empty":         {},
		"no payload":    commands(),
		"two for one":   commands("x", "y"),
		"short payload": commands("x")[:wire.BlockHeaderBytes+2],
		"extra bytes":   append(commands("x"), 0),
	} {
		if _, _, err := n.g.Propose(b, 1); err != ErrBadProposal {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, count := range []int{-1, 0, 2, 1 << 40} {
		if _, _, err := n.g.Propose(commands("x"), count); err != ErrBadProposal {
			t.Errorf("count %d: %v", count, err)
		}
	}
	if n.g.LastIndex() != 1 {
		t.Errorf("last is %d", n.g.LastIndex())
	}
}

// TestReadsAreBounded (G11).
func TestReadsAreBounded(t *testing.T) {
	n := thesisGroup(t, 3, "")
	lead(t, n)
	for context := range uint64(maxWaitingReads) {
		if err := n.g.ReadIndex(context); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.g.ReadIndex(1 << 40); err != ErrBusy {
		t.Fatalf("%v", err)
	}
	receive(t, n, wire.Message{Kind: wire.ReadIndex, From: 2, Context: 5})
	refused := 0
	for _, m := range out(n) {
		if m.Kind == wire.ReadIndexResponse && m.Reject && m.To == 2 {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d refusals of a follower's read", refused)
	}
	receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 9})
	if !n.g.Ready(&n.rd) || len(n.rd.Reads) != maxWaitingReads || !n.rd.Reads[0].Dropped {
		t.Errorf("%d reads dropped", len(n.rd.Reads))
	}
}

// TestAnswersAreBounded (G11): a flood of requests between two Readies does not
// pile up.
func TestAnswersAreBounded(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=9")
	for range 2 * maxOut {
		receive(t, n, wire.Message{Kind: wire.PreVote, From: 2, Term: 3})
	}
	if got := len(out(n)); got != maxOut {
		t.Errorf("%d answers", got)
	}
}
