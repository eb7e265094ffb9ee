package engine

import (
	"slices"

	"multiraft/wire"
)

// An entry that a state machine cannot apply stops its replica in front of it: the
// machine is not called any more, everything that waits ends with an [*ApplyError]
// in a [*GroupFailedError], and no other group notices. It is the same after each
// start, and on every replica whose machine is like this one, so nothing is gained
// by trying again. Only an operator can tell what to do: mend the machine, or have
// the entry left out by GroupConfig.Skip.
//
// Entries are applied many at a time, so an error names a range. When the group is
// started again on the same Store, those up to the end of that range are applied one
// by one, and the error names the entry.

// care is which entries of a replica the applier has to look at.
type care struct {
	to     wire.Index // none behind it
	singly wire.Index // up to here one by one
	skip   []wire.Index
}

// newCare returns what to look out for in a start.
func (s *Store) newCare(cfg *GroupConfig) care {
	c := care{skip: slices.Clone(cfg.Skip)}
	s.mu.RLock()
	c.singly = s.poisoned[cfg.ID]
	s.mu.RUnlock()
	c.to = c.singly
	for _, index := range c.skip {
		c.to = max(c.to, index)
	}
	return c
}

// careful looks at an entry that is about to be gathered. It tells whether to leave
// it out, and false when the machine has failed on one before.
func (a *applier) careful(r *replica, index wire.Index) (skip, ok bool) {
	c := &r.apply.care
	if index <= c.singly && len(a.entries) > 0 && !a.applyGathered(r, a.entries[len(a.entries)-1].Index) {
		return false, false
	}
	if slices.Contains(c.skip, index) {
		a.store.metrics.skipped.Add(1)
		return true, true
	}
	return false, true
}

// poison notes on which entries the machine of a group failed.
func (s *Store) poison(r *replica, first, last wire.Index, err error) *ApplyError {
	s.mu.Lock()
	s.poisoned[r.id] = max(s.poisoned[r.id], last)
	s.mu.Unlock()
	return &ApplyError{Group: r.id, First: first, Last: last, Err: err}
}
