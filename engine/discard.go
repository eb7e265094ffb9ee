package engine

import (
	"context"
	"fmt"

	"multiraft/raftlog"
	"multiraft/wire"
)

// RemoveGroup drops the replica of a group that is stored here and does not run:
// its log and its snapshots. It is for what was started by mistake, has failed for
// good, or belongs to a group that is no more; a member that is not wanted any more
// is taken out of its group with [Group.RemoveReplica], and leaves by itself.
//
// A replica that has made no promise yet leaves no trace, so that the right one
// can be started in its place. Any other leaves a tombstone: the others may count
// on its votes and on entries that it has acknowledged, so its id is not used
// again, as if its disk were lost. The group does without it only as long as a
// majority of its voters is left; call RemoveReplica on the leader next, and
// AddReplica if the store is to have another one.
//
// It returns [ErrGroupExists] for a group that runs, see StopGroup, and
// [ErrUnknownGroup] for one that is not stored. Where a tombstone is all there is
// it does no harm.
func (s *Store) RemoveGroup(ctx context.Context, id wire.GroupID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.state(); err != nil {
		return err
	}
	if err := s.reserve(id); err != nil {
		return err
	}
	defer s.unreserve(id)
	log := s.log.Group(id)
	meta := log.Meta()
	if len(meta) == 0 {
		if err := log.Err(); err != nil {
			return fmt.Errorf("group %d: stored log: %w", id, err) // nobody knows which id to keep
		}
		return fmt.Errorf("group %d: %w", id, ErrUnknownGroup)
	}
	d, err := decodeDescriptor(meta)
	if err != nil {
		return fmt.Errorf("group %d: stored descriptor: %w", id, err)
	}
	if !d.gone() {
		left := d.Replica
		if isBlank(log) {
			left = 0
			if d.joining() {
				left = d.members.MaxReplica // see joinDescriptor
			}
		}
		err := s.persist(ctx, func(b *raftlog.Batch) {
			if left != 0 {
				bury(b, log, left, d.members.Index)
			} else {
				b.Remove(log)
			}
		})
		if err != nil {
			return fmt.Errorf("group %d: remove: %w", id, err)
		}
	}
	s.snaps.forgetFiles(id)
	s.snaps.post(snapEvent{kind: snapForget, group: id})
	return nil
}

// isBlank tells whether a log shows that its replica has neither voted, nor taken
// part in a term, nor acknowledged an entry.
func isBlank(log *raftlog.Group) bool {
	return log.Err() == nil && log.First() == 1 && log.Last() == 0 && log.HardState() == (wire.HardState{})
}
