package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// A store whose disk is lost counts its lives from the beginning again, and peers
// that have met a later one refuse it. That is well so: its replicas may have made
// promises that it does not know of. An operator who knows, and sets
// Config.DiskLost, lets it take a place behind all its lives, without any of
// those replicas:
//
//	peer: "I have met life 4 of you" ─┬▶ no replica is stored: DiskLost ─▶ life 4 + lifeLeap, durable ─▶ hello
//	                                  │                        without ─▶ refused on, and told
//	                                  └▶ one is stored ─▶ "outlived", durable ─▶ the store fails, now and at each Open
//
// A directory that holds replicas is a copy of an older state of the disk. Nobody who
// looks at numbers alone would know it any more once it has been started as often as
// the store was since, so it remembers what it was told. Until somebody tells it, a
// replica that was the only voter of its group when the copy was made leads on alone.
type outliving struct {
	mu      sync.Mutex // held to raise; taken with no other lock held
	blank   bool       // isBlank, when the store was opened; set by open
	refused throttle
}

const (
	// lifeLeap is by how much a store passes the life that a peer has met: other
	// peers may have met later ones.
	lifeLeap = 1 << 10
	// maxLives keeps the number of a life within what contexts have room for.
	maxLives = 1<<(64-contextBits) - 1
)

// isBlank tells whether no replica is stored that could take part in anything: only
// tombstones, and marks that replicas are lost, as a start with DiskLost leaves them.
func (s *Store) isBlank() bool {
	for _, id := range s.log.Groups() {
		log := s.log.Group(id)
		meta := log.Meta()
		if log.Err() != nil {
			return false
		}
		if len(meta) == 0 {
			continue
		}
		if d, err := decodeDescriptor(meta); err != nil || !d.gone() && !d.lost() {
			return false
		}
	}
	return true
}

// outlived is asked by the transport when a peer has met a later life of this
// store. It returns the life that the store is in from then on.
func (s *Store) outlived(peer wire.StoreID, met uint64) uint64 {
	o := &s.outliving
	o.mu.Lock()
	defer o.mu.Unlock()
	life := s.log.Identity().Incarnation
	if life >= met {
		return life
	}
	outlived := &OutlivedError{Store: s.cfg.ID, Peer: peer, Incarnation: life, Met: met, Blank: o.blank}
	who := []zap.Field{zap.Uint64("peer", uint64(peer)), zap.Uint64("incarnation", life), zap.Uint64("met", met)}
	isCopy := !o.blank && !planted.Is(planted.LetOldCopyIn)
	if isCopy || !s.cfg.DiskLost || met > maxLives-lifeLeap {
		if ok, _ := o.refused.allow(time.Now()); ok {
			s.cfg.Logger.Error("a peer has met a later life of this store and refuses it: its disk was lost, see Config.DiskLost, or is an older copy", who...)
			if told := s.cfg.Events.Outlived; told != nil {
				s.events.call(func() { told(outlived) })
			}
		}
		if isCopy && s.state() == nil {
			s.fail(errors.Join(outlived, s.keepOutlived(outlived)))
		}
		return life
	}
	if err := s.log.RaiseIncarnation(met + lifeLeap); err != nil {
		s.cfg.Logger.Error("the store could not take an incarnation behind the one that a peer has met", append(who, zap.Error(err))...)
		return life
	}
	s.cfg.Logger.Warn("the store has lost its disk, and begins a life behind those that its peers have met", who...)
	return met + lifeLeap
}

// outlivedFile is in the directory of a store that was told that it is an older copy.
const outlivedFile = "outlived"

// keepOutlived makes durable that the store is an older copy.
func (s *Store) keepOutlived(e *OutlivedError) error {
	if planted.Is(planted.ForgetOutlived) {
		return nil
	}
	fsys, name := s.files(), filepath.Join(s.cfg.Dir, outlivedFile)
	file, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(fmt.Appendf(nil, outlivedFormat, e.Peer, e.Met), 0)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return fsys.SyncDir(s.cfg.Dir)
}

const outlivedFormat = "store %d has met life %d of this store: its directory is an older copy\n"

// checkOutlived returns an *OutlivedError when the directory is known to be an older
// copy. One that holds no replica any more is not.
func (s *Store) checkOutlived() error {
	fsys, name := s.files(), filepath.Join(s.cfg.Dir, outlivedFile)
	file, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if s.outliving.blank {
		return errors.Join(file.Close(), fsys.Remove(name), fsys.SyncDir(s.cfg.Dir))
	}
	e := &OutlivedError{Store: s.cfg.ID, Incarnation: s.log.Identity().Incarnation}
	text := make([]byte, 256)
	n, err := file.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(e, err, file.Close())
	}
	_, _ = fmt.Sscanf(string(text[:n]), outlivedFormat, &e.Peer, &e.Met) // that it is there says enough
	return errors.Join(e, file.Close())
}
