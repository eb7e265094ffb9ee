package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"multiraft/internal/snapfile"
	"multiraft/raftlog"
	"multiraft/wire"
)

// ExportSnapshot writes a snapshot of the group to w, of all that this replica
// has applied, and returns the index of the last entry in it. What it writes is
// the format of the store's own snapshots (docs/snapshot-format.md): each part is
// checked as it is read, and checks itself when it is imported. An error leaves
// a part of it in w.
func (g *Group) ExportSnapshot(ctx context.Context, w io.Writer) (wire.Index, error) {
	index, err := g.Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	n, name := g.store.snaps, snapfile.Name{Group: g.replica.id, Index: index}
	file, release, err := n.open(name)
	if err != nil {
		// A newer one took its place meanwhile, or an install did.
		newest, ok := n.newest(name.Group)
		if !ok {
			return 0, &SnapshotError{Group: name.Group, Index: index, Err: err}
		}
		name.Index = newest
		if file, release, err = n.open(name); err != nil {
			return 0, &SnapshotError{Group: name.Group, Index: newest, Err: err}
		}
	}
	defer release()
	if err := file.CopyTo(&contextWriter{ctx, w}); err != nil {
		return 0, &SnapshotError{Group: name.Group, Index: name.Index, Err: err}
	}
	return name.Index, nil
}

// contextWriter writes until its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *contextWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

// beginNew begins a group that is not stored: with nothing, or with an exported
// snapshot. What is left of a beginning that a crash interrupted is dropped.
func (s *Store) beginNew(ctx context.Context, r *replica, cfg *GroupConfig, d *descriptor) (wire.Index, error) {
	s.snaps.forgetFiles(r.id)
	if !isBlank(r.log) {
		if err := s.persist(ctx, func(b *raftlog.Batch) { b.Remove(r.log) }); err != nil {
			return 0, err
		}
	}
	if cfg.Snapshot == "" {
		return cfg.machineIndex()
	}
	machine, ok := cfg.StateMachine.(Snapshotter)
	if !ok {
		return 0, fmt.Errorf("group %d: start from a snapshot: %w", r.id, ErrNoSnapshotter)
	}
	info, err := s.importSnapshot(ctx, r, cfg.Snapshot, d)
	if err != nil {
		return 0, fmt.Errorf("group %d: import %s: %w", r.id, cfg.Snapshot, err)
	}
	// The descriptor stands last: without it the group does not count as stored.
	err = s.persist(ctx, func(b *raftlog.Batch) {
		b.HardState(r.log, wire.HardState{Term: info.Term, Commit: info.Index})
		b.Restart(r.log, info.Index, info.Term)
		b.Meta(r.log, d.encode())
	})
	if err != nil {
		return 0, err
	}
	name := snapfile.Name{Group: r.id, Index: info.Index}
	s.snaps.publish(name)
	if err := s.snaps.restoreFrom(r, machine, name); err != nil {
		return 0, &SnapshotError{Group: r.id, Index: info.Index, Err: err}
	}
	r.apply.plan.base, r.apply.plan.size = info.Index, int64(info.Bytes)
	return info.Index, nil
}

// importSnapshot copies the state in a file into a snapshot of this group, with
// its members. All of the file is checked before anything is written.
func (s *Store) importSnapshot(ctx context.Context, r *replica, path string, d *descriptor) (info *snapfile.Info, err error) {
	file, err := snapfile.OpenFile(s.files(), path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Verify(); err != nil {
		return nil, err
	}
	from := file.Info()
	w, err := s.snaps.dir.Create(snapfile.Meta{
		Cluster: s.cfg.Cluster, Store: s.cfg.ID, Group: r.id, Index: from.Index, Term: from.Term,
		Nonce: s.seeds.Uint64(), ChunkBytes: s.cfg.SnapshotChunkBytes, Members: *d.members,
	})
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(&contextWriter{ctx, w}, file.Reader()); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w.Commit()
}
