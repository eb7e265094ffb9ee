package recovery

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"multiraft/wire"
)

// Write writes a survey for people.
func (s *Survey) Write(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	p := &printer{w: w}
	p.line("store %d of cluster %d, identity %s, incarnation %d", s.Store, s.Cluster, s.UUID, s.Incarnation)
	p.line("group\treplica\tstate\tterm\tlog\tlast term\tcommitted\tsnapshot\tmembers")
	for i := range s.Replicas {
		r := &s.Replicas[i]
		snapshot := "none"
		if r.Snapshot != nil {
			snapshot = fmt.Sprintf("to %d", r.Snapshot.Index)
		}
		log := "empty"
		if r.Last >= r.First {
			log = fmt.Sprintf("%d to %d", r.First, r.Last)
		}
		p.line("%d\t%d\t%s\t%d\t%s\t%d\t%d\t%s\t%s", r.Group, r.Replica, r.State, r.Term, log, r.LastTerm, r.committed(), snapshot, r.Members.text())
		for _, m := range r.Pending {
			p.line("\t\t\t\t\t\t\t\ton its way: %s", m.text())
		}
		for _, problem := range r.Problems {
			p.line("\t\t\t\t\t\t\t\tPROBLEM: %s", problem)
		}
	}
	p.flush(w)
	return p.err
}

func (m *Membership) text() string {
	if len(m.Members) == 0 {
		return "none known"
	}
	return fmt.Sprintf("%s, since entry %d", listOf(m.Members), m.Index)
}

func listOf(members []Member) string {
	var list []string
	for _, m := range members {
		role := ""
		switch {
		case m.Voter && m.Outgoing, m.Voter && !m.Outgoing && !m.Learner:
		case m.Outgoing:
			role = " (going)"
		default:
			role = " (learner)"
		}
		list = append(list, fmt.Sprintf("%d on store %d%s", m.Replica, m.Store, role))
	}
	if list == nil {
		return "none"
	}
	return strings.Join(list, ", ")
}

// Write writes a plan for people: what an operator has to read before the hash is
// typed.
func (p *Plan) Write(to io.Writer) error {
	out := &printer{w: to}
	var stores []string
	for _, s := range p.Stores {
		stores = append(stores, fmt.Sprint(s.Store))
	}
	out.line("Plan for cluster %d, made from the disks of stores %s.", p.Cluster, strings.Join(stores, ", "))
	if p.Force != "" {
		out.line("BY FORCE: %s", p.Force)
	}
	for i := range p.Groups {
		p.Groups[i].write(out)
	}
	if len(p.Left) > 0 {
		out.line("")
		out.line("Nothing is done about these groups:")
		for _, l := range p.Left {
			out.line("  group %d: %s", l.Group, l.Why)
		}
	}
	if len(p.Groups) == 0 {
		return out.err
	}
	hash, err := p.Confirmation()
	if err != nil {
		return err
	}
	out.line("")
	out.line("All other stores with members of these groups are left behind. They must be off, or cut off from")
	out.line("clients and from the stores above, before the plan is carried out; see docs/quorum-loss.md.")
	if lost := p.lostStores(); len(lost) > 0 {
		out.line("Stores left behind: %s.", strings.Join(lost, ", "))
	}
	out.line("Confirmation: %s", hash)
	return out.err
}

// lostStores lists the stores of members that are left behind.
func (p *Plan) lostStores() []string {
	var ids []wire.StoreID
	for i := range p.Groups {
		for _, m := range p.Groups[i].Lost {
			ids = append(ids, m.Store)
		}
	}
	slices.Sort(ids)
	var list []string
	for _, id := range slices.Compact(ids) {
		list = append(list, fmt.Sprint(id))
	}
	return list
}

func (g *GroupPlan) write(out *printer) {
	out.line("")
	out.line("Group %d, recovery %d:", g.Group, g.Generation)
	out.line("  members so far:  %s", listOf(g.Before.Members))
	for _, m := range g.Pending {
		out.line("  change on its way: %s", m.text())
	}
	out.line("  LEFT BEHIND:     %s", listOf(g.Lost))
	out.line("  members from now: %s", listOf(g.After))
	out.line("  goes on from replica %d, whose log ends at entry %d", g.Source, g.Last)
	if g.Last > g.Committed {
		out.line("  entries %d to %d may have been committed or not: they are from now on", g.Committed+1, g.Last)
	}
	if g.MayLose {
		out.line("  MAY BE LOST: writes that were acknowledged behind entry %d and are not in that log", g.Committed)
	} else {
		out.line("  nothing that was acknowledged is lost")
	}
	for _, r := range g.Replicas {
		switch r.Action {
		case Follow:
			out.line("  replica %d on store %d (log to %d) takes over what it lacks", r.Replica, r.Store, r.Last)
		case Bar:
			out.line("  replica %d on store %d is no member and is barred", r.Replica, r.Store)
		case Leave:
			out.line("  replica %d on store %d is left as it is", r.Replica, r.Store)
		case Lead:
		}
	}
	for _, note := range g.Notes {
		out.line("  NOTE: %s", note)
	}
}

// printer keeps the first error of many lines.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) flush(w *tabwriter.Writer) {
	if p.err == nil {
		p.err = w.Flush()
	}
}
