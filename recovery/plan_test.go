package recovery_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"multiraft/internal/allocs"
	"multiraft/recovery"
	"multiraft/wire"
)

// survivor describes a replica with its own number on a store of the same number.
func survivor(id int, term wire.Term, last, commit wire.Index, m recovery.Membership) *recovery.Survey {
	return &recovery.Survey{Format: recovery.Format, Cluster: 1, Store: wire.StoreID(id), Replicas: []recovery.Replica{{
		Group: 1, Replica: wire.ReplicaID(id), State: recovery.Whole, Term: term, LastTerm: term, First: 1, Last: last, Commit: commit,
		Members: m, Mark: fmt.Sprint(id),
	}}}
}

// config parses members: v3 votes, o3 is going, b3 votes in both halves, l3 learns.
func config(index wire.Index, text string) recovery.Membership {
	m := recovery.Membership{Index: index}
	for _, word := range strings.Fields(text) {
		var id int
		if _, err := fmt.Sscan(word[1:], &id); err != nil {
			panic(err)
		}
		m.MaxReplica = max(m.MaxReplica, wire.ReplicaID(id))
		m.Members = append(m.Members, recovery.Member{
			Replica: wire.ReplicaID(id), Store: wire.StoreID(id),
			Voter: strings.Contains("vb", word[:1]), Outgoing: strings.Contains("ob", word[:1]), Learner: word[0] == 'l',
		})
	}
	return m
}

func with(s *recovery.Survey, change func(r *recovery.Replica)) *recovery.Survey {
	change(&s.Replicas[0])
	return s
}

func TestPlan(t *testing.T) {
	three := config(0, "v1 v2 v3")
	for _, test := range []struct {
		name    string
		surveys []*recovery.Survey
		voters  []wire.StoreID
		want    string // source, then who goes on, committed-last, and whether something may be lost
	}{
		{"the higher term wins over the longer log",
			[]*recovery.Survey{survivor(1, 3, 90, 5, config(0, "v1 v2 v3 v4 v5")), survivor(2, 4, 20, 7, config(0, "v1 v2 v3 v4 v5"))}, nil,
			"2: v1 v2 7-20 loss"},
		{"in one term the longer log", []*recovery.Survey{survivor(1, 3, 9, 5, config(0, "v1 v2 v3 v4 v5")), survivor(2, 3, 20, 7, config(0, "v1 v2 v3 v4 v5"))}, nil,
			"2: v1 v2 7-20 loss"},
		{"a voter rather than a learner", []*recovery.Survey{survivor(1, 3, 9, 5, config(4, "l1 v2 v3 v4")), survivor(2, 3, 9, 5, config(4, "l1 v2 v3 v4"))}, nil,
			"2: l1 v2 5-9 loss"},
		{"a learner when it has more", []*recovery.Survey{survivor(1, 3, 9, 5, config(4, "l1 v2 v3 v4")), survivor(2, 3, 8, 5, config(4, "l1 v2 v3 v4"))}, nil,
			"1: v1 v2 5-9 loss"},
		{"half of four", []*recovery.Survey{survivor(1, 3, 9, 5, config(4, "v1 v2 v3 v4")), survivor(2, 3, 8, 5, config(4, "v1 v2 v3 v4"))}, nil,
			"1: v1 v2 5-9"},
		{"voters by choice", []*recovery.Survey{survivor(1, 3, 9, 5, config(4, "v1 v2 v3 v4")), survivor(2, 3, 8, 5, config(4, "v1 v2 v3 v4"))}, []wire.StoreID{1},
			"1: v1 l2 5-9"},
		{"a quorum of one half only", []*recovery.Survey{survivor(1, 3, 9, 5, config(4, "b1 o2 o3 v4 v5")), survivor(4, 3, 8, 5, config(4, "b1 o2 o3 v4 v5"))}, nil,
			"1: v1 v4 5-9"},
		{"the newest membership that is known to be committed counts",
			[]*recovery.Survey{survivor(1, 3, 9, 9, config(8, "v1 v4 v5")), survivor(2, 3, 7, 5, three), survivor(3, 3, 7, 5, three)}, nil,
			"1: v1 9-9 loss bar2 bar3"},
		{"one on its way does not",
			[]*recovery.Survey{with(survivor(1, 3, 9, 5, three), func(r *recovery.Replica) { r.Pending = []recovery.Membership{config(8, "v1 v4 v5")} })}, nil,
			"1: v1 5-9 loss"},
		{"unless another has applied it",
			[]*recovery.Survey{
				with(survivor(1, 3, 9, 5, three), func(r *recovery.Replica) { r.Pending = []recovery.Membership{config(8, "v1 v4 v5")} }),
				survivor(4, 3, 8, 8, config(8, "v1 v4 v5")),
			}, nil,
			"quorum"},
		{"what a damaged one knows to be committed is lost", []*recovery.Survey{
			survivor(1, 3, 9, 5, config(4, "v1 v2 v3 v4")), survivor(2, 3, 9, 5, config(4, "v1 v2 v3 v4")),
			with(survivor(3, 3, 20, 15, config(4, "v1 v2 v3 v4")), func(r *recovery.Replica) { r.State = recovery.Damaged }),
		}, nil, "1: v1 v2 5-9 loss leave3"},
		{"a tombstone is nobody", []*recovery.Survey{survivor(1, 3, 9, 5, three),
			with(survivor(2, 0, 0, 0, config(0, "")), func(r *recovery.Replica) { r.State = recovery.Gone })}, nil,
			"1: v1 5-9 loss leave2"},
		{"who has no membership yet goes on where others know it", []*recovery.Survey{survivor(1, 3, 9, 5, config(4, "v1 v2 v3 l4")),
			with(survivor(4, 3, 2, 0, config(0, "")), func(r *recovery.Replica) { r.State = recovery.Joining })}, nil,
			"1: v1 l4 5-9 loss"},
	} {
		p, err := recovery.NewPlan(test.surveys, recovery.Options{Voters: test.voters})
		got := ""
		switch {
		case errors.Is(err, recovery.ErrNothing):
			got = "quorum"
		case err != nil:
			got = err.Error()
		default:
			got = summary(&p.Groups[0])
			for _, s := range test.surveys { // Q3
				if g, r := p.Groups[0], s.Replicas[0]; g.Term <= r.Term || g.Ceiling <= r.Members.MaxReplica || g.Floor != g.Last+1 {
					t.Errorf("%s: term %d, ceiling %d, floor %d behind %d", test.name, g.Term, g.Ceiling, g.Floor, g.Last)
				}
			}
		}
		if got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
}

func summary(g *recovery.GroupPlan) string {
	text := fmt.Sprintf("%d:", g.Source)
	for _, m := range g.After {
		role := "l"
		if m.Voter {
			role = "v"
		}
		text += fmt.Sprintf(" %s%d", role, m.Replica)
	}
	text += fmt.Sprintf(" %d-%d", g.Committed, g.Last)
	if g.MayLose {
		text += " loss"
	}
	for _, r := range g.Replicas {
		if r.Action == recovery.Bar || r.Action == recovery.Leave {
			text += fmt.Sprintf(" %s%d", r.Action, r.Store)
		}
	}
	return text
}

// TestPlanRefusesInput: what was surveyed must be of one cluster and one history.
func TestPlanRefusesInput(t *testing.T) {
	three := config(0, "v1 v2 v3")
	good := func() *recovery.Survey { return survivor(1, 3, 9, 5, three) }
	for name, test := range map[string]struct {
		surveys []*recovery.Survey
		options recovery.Options
	}{
		"nothing":         {},
		"other clusters":  {surveys: []*recovery.Survey{good(), func() *recovery.Survey { s := survivor(2, 1, 1, 1, three); s.Cluster = 2; return s }()}},
		"one store twice": {surveys: []*recovery.Survey{good(), good()}},
		"another format":  {surveys: []*recovery.Survey{func() *recovery.Survey { s := good(); s.Format++; return s }()}},
		"unknown voter":   {surveys: []*recovery.Survey{good()}, options: recovery.Options{Voters: []wire.StoreID{2}}},
		"unknown group":   {surveys: []*recovery.Survey{good()}, options: recovery.Options{Groups: []wire.GroupID{2}}},
		"no numbers left": {surveys: []*recovery.Survey{survivor(1, 1<<64-2, 9, 5, three)}},
		"two histories":   {surveys: []*recovery.Survey{survivor(1, 3, 9, 5, config(0, "v1 v2 v3 v4 v5")), survivor(2, 2, 20, 15, config(0, "v1 v2 v3 v4 v5"))}},
		"groups out of order": {surveys: []*recovery.Survey{func() *recovery.Survey {
			s := good()
			s.Replicas = append(s.Replicas, s.Replicas[0])
			return s
		}()}},
	} {
		var input *recovery.InputError
		if _, err := recovery.NewPlan(test.surveys, test.options); !errors.As(err, &input) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "{}", `{"format":1} x`, `{"format":1,"more":2}`, `{"format":2}`} {
		if _, err := recovery.DecodePlan([]byte(text)); !errors.Is(err, recovery.ErrFormat) {
			t.Errorf("plan %q: %v", text, err)
		}
		if _, err := recovery.DecodeSurvey([]byte(text)); !errors.Is(err, recovery.ErrFormat) {
			t.Errorf("survey %q: %v", text, err)
		}
	}
}

// recovered says that a replica has survived a recovery.
func recovered(s *recovery.Survey, generation uint64, plan string, survivors ...wire.ReplicaID) *recovery.Survey {
	return with(s, func(r *recovery.Replica) {
		r.Generation, r.Plan, r.Ceiling, r.Survivors = generation, plan, 100, survivors
	})
}

// TestPlanRefusesTwoSides: replicas that were recovered apart are two groups, neither
// of which may be taken for the rest of the other one. One that the newest recovery
// left behind is known for that, whatever it did since.
func TestPlanRefusesTwoSides(t *testing.T) {
	four := config(10, "v1 v2 v3 v4")
	a, b := recovered(survivor(1, 9, 12, 12, four), 1, "aa", 1, 2), recovered(survivor(3, 9, 20, 20, config(14, "v3 v4")), 1, "bb", 3, 4)
	var apart *recovery.ApartError
	_, err := recovery.NewPlan([]*recovery.Survey{a, b, survivor(4, 8, 9, 9, four)}, recovery.Options{})
	if !errors.As(err, &apart) {
		t.Fatalf("a plan was made of two groups: %v", err)
	}
	if apart.Group != 1 || apart.Generation != 1 || !slices.Equal(apart.One, []wire.StoreID{1}) || !slices.Equal(apart.Other, []wire.StoreID{3}) {
		t.Errorf("%+v", apart)
	}
	if text := apart.Error(); !strings.Contains(text, "one side alone") || !strings.Contains(text, "store 1") {
		t.Errorf("it does not say what to do: %s", text)
	}
	// What cannot go on does not count.
	for _, state := range []recovery.State{recovery.Barred, recovery.Gone} {
		other := with(recovered(survivor(3, 9, 20, 20, four), 1, "bb", 3, 4), func(r *recovery.Replica) { r.State = state })
		if _, err := recovery.NewPlan([]*recovery.Survey{a, other}, recovery.Options{}); errors.As(err, &apart) {
			t.Errorf("%s: %v", state, err)
		}
	}
	for _, test := range []struct {
		name    string
		surveys []*recovery.Survey
		want    string
	}{
		{"left behind by the newest recovery, and further on by itself",
			[]*recovery.Survey{
				recovered(survivor(1, 9, 12, 12, config(10, "v1 v2 v9")), 2, "cc", 1, 2, 9), b,
				survivor(5, 8, 40, 30, config(25, "v5 v6 v7")),
			}, "1: v1 12-12 loss bar3 bar5"},
		{"a survivor whose store the recovery was not carried out on",
			[]*recovery.Survey{recovered(survivor(1, 9, 12, 12, config(10, "v1 v2 v3 v4")), 1, "aa", 1, 2), survivor(2, 3, 9, 9, four)}, "1: v1 v2 12-12"},
		{"one that was added since",
			[]*recovery.Survey{recovered(survivor(1, 9, 12, 12, config(10, "v1 v2 v101 v102")), 1, "aa", 1, 2), survivor(101, 9, 12, 12, config(10, "v1 v2 v101 v102"))},
			"1: v1 v101 12-12"},
	} {
		p, err := recovery.NewPlan(test.surveys, recovery.Options{})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := summary(&p.Groups[0]); got != test.want || p.Groups[0].Generation != test.surveys[0].Replicas[0].Generation+1 {
			t.Errorf("%s: recovery %d\n got %s\nwant %s", test.name, p.Groups[0].Generation, got, test.want)
		}
	}
}

// FuzzPlan: surveys and plans come from files, and make nothing panic. A plan that is
// read is written as it was, or another confirmation would be asked for.
func FuzzPlan(f *testing.F) {
	s := survivor(1, 3, 9, 5, config(0, "v1 v2 v3"))
	b, err := s.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, b)
	p, err := recovery.NewPlan([]*recovery.Survey{s}, recovery.Options{})
	if err != nil {
		f.Fatal(err)
	}
	plan, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plan, b)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		// JSON is read into values some ten times as large, and written again.
		allocs.AtMost(t, uint64(1<<20+512*(len(a)+len(b))), func() {
			var surveys []*recovery.Survey
			for _, text := range [][]byte{a, b} {
				if s, err := recovery.DecodeSurvey(text); err == nil {
					surveys = append(surveys, s)
				}
			}
			p, err := recovery.NewPlan(surveys, recovery.Options{})
			if err != nil {
				p, err = recovery.DecodePlan(a)
			}
			if err != nil {
				return
			}
			_ = p.Write(discard{}) // looked at for panics only
			text, err := p.Encode()
			if err != nil {
				t.Fatal(err)
			}
			again, err := recovery.DecodePlan(text)
			if err != nil {
				t.Fatalf("%v, of %s", err, text)
			}
			confirm, err := p.Confirmation()
			confirmAgain, errAgain := again.Confirmation()
			if err != nil || errAgain != nil || confirm != confirmAgain {
				t.Fatalf("confirmed by %s and %s (%v, %v)", confirm, confirmAgain, err, errAgain)
			}
		})
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
