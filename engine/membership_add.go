package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/wire"
)

// AddReplica adds a voter to the group on another store and returns it when it
// votes. It comes as a learner, gets the log or a snapshot, and is promoted when
// it is close to the leader, so that the group never waits for it. Its store
// starts it by [Config.Join], or StartGroup with [GroupConfig.Join] does.
//
// A zero m.Replica picks the next free id; m.Role is not looked at. Changes of
// others that are under way are waited for. When AddReplica ends early, because
// ctx ended or leadership was lost, the replica stays what it is, and calling it
// again, on whoever leads, goes on from there: a store has one replica of a
// group at most; RemoveReplica takes it back. Errors are those of ChangeMembers;
// that of ctx comes with what was waited for.
func (g *Group) AddReplica(ctx context.Context, m Member) (Member, error) {
	return g.bring(ctx, m, wire.Voter, 0)
}

// AddLearner is AddReplica for a replica that has no vote. It returns when the
// group has the learner, which may have to catch up yet.
func (g *Group) AddLearner(ctx context.Context, m Member) (Member, error) {
	return g.bring(ctx, m, wire.Learner, 0)
}

// ReplaceReplica is AddReplica, except that the new voter takes the place of
// another member: the number of voters is the same before and after, and in
// between both the old ones and the new ones decide. The replica that goes may be
// dead, or the leader. One that has gone before counts as replaced; an id that was
// never given is refused with [group.ReasonUnknown].
//
// The new voter is on another store than the old one, as a store has one replica
// of a group at most. When a member has lost its disk and is to come back on the
// same store, call RemoveReplica, then AddReplica.
func (g *Group) ReplaceReplica(ctx context.Context, old wire.ReplicaID, m Member) (Member, error) {
	if old == 0 {
		return Member{}, g.wrap(&group.MembershipError{Reason: group.ReasonZeroID})
	}
	return g.bring(ctx, m, wire.Voter, old)
}

// RemoveReplica removes a member from the group and returns when the members
// that stay do without it. Its store ends it and lets go of its log as soon as
// it hears of that; its id is not used again. Errors are those of ChangeMembers.
func (g *Group) RemoveReplica(ctx context.Context, id wire.ReplicaID) error {
	_, err := g.request(ctx, &memberRequest{
		change:  group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: id}}},
		patient: true, final: true,
	})
	return err
}

func (g *Group) wrap(err error) error { return fmt.Errorf("group %d: %w", g.ID(), err) }

// bring takes the group, step by step, from whatever its membership is to one
// with a replica on m.Store in the given role and without old.
func (g *Group) bring(ctx context.Context, m Member, role wire.MemberRole, old wire.ReplicaID) (Member, error) {
	for {
		if err := g.replica.mustLead(); err != nil {
			return Member{}, err
		}
		now := g.Membership()
		if old > now.MaxReplica {
			return Member{}, g.wrap(&group.MembershipError{Reason: group.ReasonUnknown, Replica: old, Index: now.Index})
		}
		at := -1
		for i := range now.Members {
			if now.Members[i].Store == m.Store {
				at = i
			}
		}
		var err error
		if at < 0 {
			err = g.bringIn(ctx, m, &now)
		} else {
			have := now.Members[at]
			if m.Replica != 0 && m.Replica != have.Replica || have.Replica == old {
				return Member{}, g.wrap(&group.MembershipError{Reason: group.ReasonSameStore, Replica: have.Replica, Index: now.Index})
			}
			if have.Role&(role|wire.Voter) != 0 && now.place(old) < 0 {
				return have, nil
			}
			err = g.bringUp(ctx, have, old, &now)
		}
		var refused *group.MembershipError
		if errors.As(err, &refused) && refused.Reason == group.ReasonStale {
			continue // somebody else was faster
		}
		if refused != nil && refused.Reason == group.ReasonUnknown && m.Replica == 0 && g.hosts(m.Store) {
			continue // its store has lost the learner, and was given another one
		}
		if err != nil {
			return Member{}, err
		}
	}
}

// hosts tells whether a store has a member of the group.
func (g *Group) hosts(store wire.StoreID) bool {
	return slices.ContainsFunc(g.Membership().Members, func(m Member) bool { return m.Store == store })
}

// bringIn adds the learner.
func (g *Group) bringIn(ctx context.Context, m Member, now *Membership) error {
	if m.Replica == 0 {
		m.Replica = now.MaxReplica + 1
	}
	_, err := g.request(ctx, &memberRequest{
		change: group.MembershipChange{
			Changes: []group.Change{{Op: group.AddLearner, Replica: m.Replica, Store: m.Store}},
			IfIndex: now.Index, Exact: true,
		},
		patient: true, final: true,
	})
	if err == nil {
		g.log("replica was added as a learner", m)
	}
	return err
}

// bringUp waits until a learner has caught up, and makes it a voter; old goes
// in the same step.
func (g *Group) bringUp(ctx context.Context, have Member, old wire.ReplicaID, now *Membership) error {
	change := group.MembershipChange{IfIndex: now.Index, Exact: true}
	if have.Role&wire.Voter == 0 {
		if _, err := g.request(ctx, &memberRequest{caughtUp: have.Replica}); err != nil {
			return err
		}
		change.Changes = append(change.Changes, group.Change{Op: group.AddVoter, Replica: have.Replica})
	}
	if now.place(old) >= 0 {
		change.Changes = append(change.Changes, group.Change{Op: group.Remove, Replica: old})
	}
	_, err := g.request(ctx, &memberRequest{change: change, patient: true, final: true})
	if err == nil {
		g.log("replica is a voter", have)
	}
	return err
}

func (g *Group) log(what string, m Member) {
	if word := g.store.cfg.Logger.Check(zap.InfoLevel, what); word != nil {
		word.Write(zap.Uint64("group", uint64(g.ID())), zap.Uint64("replica", uint64(m.Replica)), zap.Uint64("store", uint64(m.Store)))
	}
}
