package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"

	"github.com/cespare/xxhash/v2"

	"multiraft/wire"
)

// Identity is who a store is. It is made with its directory and never changes,
// except for the incarnation, which every Open raises, durably, before anything
// else is written, and which [Log.RaiseIncarnation] raises further.
type Identity struct {
	Cluster     uint64
	Store       wire.StoreID
	UUID        [16]byte
	Incarnation uint64
}

// The identity is kept in two files. Each write goes to the older one, so that a
// torn one leaves the other, and what is told to anybody stands in both: one damaged
// copy takes nothing back.
//
//	generation: life   found     raise                          reach            raiseTo
//	identity-a          4: 2  ─▶ 6: 3 ┬▶ log is made ready ┬───────▶ 8: 3 ┬─────────▶ 10: 9
//	identity-b          5: 2          ┘                    └▶ 7: 3 ┘      └▶ 9: 9 ┘
//
// A copy is written over only when the other one is durable, so of the two only the
// newer can be one that a process left in the page cache (see settle). This is why
// each has a generation of its own, also where both say the same.
//
//	 0     8     12   14   16          24       32     40    56           64       72
//	┌─────┬─────┬────┬────┬───────────┬────────┬──────┬─────┬─────────────┬────────┐
//	│ sum │magic│ v  │zero│ generation│ cluster│ store│uuid │ incarnation │ reached│
//	└─────┴─────┴────┴────┴───────────┴────────┴──────┴─────┴─────────────┴────────┘
//
// reached is a segment that has had a durable batch, 0 before the first: a log
// that ends before it has lost its end, and that is no torn tail.
const (
	identityBytes   = 72
	identityMagic   = 0x314c524e
	identityVersion = 1
)

var identityNames = [2]string{"identity-a", "identity-b"}

var errBadIdentity = errors.New("identity file is damaged")

type identityCopy struct {
	Identity
	generation uint64
	reached    uint32 // a segment that has had a batch
}

func (c *identityCopy) encode() []byte {
	b := make([]byte, 8, identityBytes)
	b = le.AppendUint32(b, identityMagic)
	b = le.AppendUint16(b, identityVersion)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, c.generation)
	b = le.AppendUint64(b, c.Cluster)
	b = le.AppendUint64(b, uint64(c.Store))
	b = append(b, c.UUID[:]...)
	b = le.AppendUint64(b, c.Incarnation)
	b = le.AppendUint64(b, uint64(c.reached))
	le.PutUint64(b, xxhash.Sum64(b[8:]))
	return b
}

func (c *identityCopy) decode(b []byte) error {
	if len(b) != identityBytes || le.Uint64(b) != xxhash.Sum64(b[8:]) || le.Uint32(b[8:]) != identityMagic {
		return errBadIdentity
	}
	if v := le.Uint16(b[12:]); v != identityVersion {
		return fmt.Errorf("format version %d, want %d", v, identityVersion)
	}
	c.generation = le.Uint64(b[16:])
	c.Cluster = le.Uint64(b[24:])
	c.Store = wire.StoreID(le.Uint64(b[32:]))
	copy(c.UUID[:], b[40:])
	c.Incarnation = le.Uint64(b[56:])
	reached := le.Uint64(b[64:])
	if reached > math.MaxUint32 {
		return errBadIdentity
	}
	c.reached = uint32(reached)
	return nil
}

// identityFile is the identity as it was found, and where the next copy goes.
type identityFile struct {
	identityCopy
	read   identityCopy // as it was found
	o      *Options
	found  bool       // a copy was read, and may not be durable
	again  bool       // it can be written again: were that torn, it would not be missed
	mu     sync.Mutex // held to write, after Open; guards the field below and identityCopy
	target int        // of the two copies, the one to write next
}

// loadIdentity reads the identity of the directory, or makes it up when there
// is none yet and no log either, and checks that it is the one asked for. It
// writes nothing.
func loadIdentity(o *Options, hasLog bool) (*identityFile, error) {
	var copies [2]identityCopy
	var errs [2]error
	for i, name := range identityNames {
		errs[i] = readIdentity(o.FS, o.path(name), &copies[i])
		if errs[i] != nil && !errors.Is(errs[i], fs.ErrNotExist) && !errors.Is(errs[i], errBadIdentity) {
			return nil, fmt.Errorf("%s: %w", name, errs[i])
		}
	}
	f := &identityFile{o: o}
	switch {
	case errs[0] != nil && errs[1] != nil:
		// A crash while the directory was made can leave a torn first copy, and
		// nothing else. With anything else there, it was another misfortune.
		if hasLog || !errors.Is(errs[1], fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: the log has no identity any more: %w", o.Dir, errors.Join(errs[:]...))
		}
		f.Cluster, f.Store = o.Cluster, o.Store
		le.PutUint64(f.UUID[:8], o.Rand())
		le.PutUint64(f.UUID[8:], o.Rand())
		return f, nil
	case errs[0] != nil || errs[1] == nil && copies[1].generation > copies[0].generation:
		f.identityCopy, f.target = copies[1], 0
	default:
		f.identityCopy, f.target = copies[0], 1
	}
	f.read = f.identityCopy
	switch {
	case f.Cluster != o.Cluster:
		return nil, &IdentityError{o.Dir, "cluster", o.Cluster, f.Cluster}
	case f.Store != o.Store:
		return nil, &IdentityError{o.Dir, "store", uint64(o.Store), uint64(f.Store)}
	}
	f.found = true
	// Without a log nobody has met the store yet, and it can be made anew.
	f.again = errs[f.target] == nil || errors.Is(errs[f.target], fs.ErrNotExist) && f.target == 1 && !hasLog
	if errors.Is(errs[f.target], errBadIdentity) {
		// The damaged copy was the newer one if a crash came between two writes: skip
		// what it had used. Nobody was told that, so to fall back is safe however far
		// apart they were.
		f.generation++
		f.Incarnation++
		o.Events.Damaged(&CorruptionError{Err: fmt.Errorf("%s: %w", identityNames[f.target], errBadIdentity)}, nil)
	}
	return f, nil
}

// raise makes the next incarnation durable, in one copy. The other one gets it from
// reach, at the end of Open and before anybody hears of it.
func (f *identityFile) raise() error {
	if err := f.settle(); err != nil {
		return err
	}
	f.Incarnation++
	return f.write()
}

// settle makes the copy that was read durable, before the other is written to: a
// killed process may have left it in the page cache only, and a power cut would
// then find neither. If its sync had failed the pages would pass for clean, and
// another sync would do nothing, so it is written again.
func (f *identityFile) settle() error {
	if !f.found || f.o.NoSync {
		return nil
	}
	path := f.o.path(identityNames[1-f.target])
	file, err := f.o.FS.Open(path)
	if err != nil {
		return err
	}
	if f.again {
		_, err = file.WriteAt(f.read.encode(), 0)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("settle %s: %w", path, err)
	}
	return f.o.FS.SyncDir(f.o.Dir)
}

// raiseTo makes a later incarnation durable.
func (f *identityFile) raiseTo(incarnation uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.Incarnation
	if incarnation <= was {
		return nil
	}
	f.Incarnation = incarnation
	err := f.writeBoth()
	if err != nil {
		f.Incarnation = was
	}
	return err
}

// RaiseIncarnation makes durable that this life of the store is at least the given
// one. It is for a store whose peers have met a later life of it, and may be called
// from any goroutine.
func (l *Log) RaiseIncarnation(incarnation uint64) error {
	if err := l.Err(); err != nil {
		return err
	}
	if err := l.upkeep.identity.raiseTo(incarnation); err != nil {
		return err
	}
	l.identityMu.Lock()
	defer l.identityMu.Unlock()
	l.identity.Incarnation = max(l.identity.Incarnation, incarnation)
	return nil
}

// Identity returns who the store is.
func (l *Log) Identity() Identity {
	l.identityMu.Lock()
	defer l.identityMu.Unlock()
	return l.identity
}

// reach makes durable that a segment has had a durable batch. In both copies, for a
// small write with each segment: nothing but this tells that the newest segment was
// lost.
func (f *identityFile) reach(segment uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if segment <= f.reached {
		return nil
	}
	was := f.reached
	f.reached = segment
	err := f.writeBoth()
	if err != nil {
		f.reached = was // to be tried again
	}
	return err
}

// writeBoth makes the identity durable in the older copy, and then in the other. An
// error leaves at least the copy that it did not come from, and the next write begins
// with the other one.
func (f *identityFile) writeBoth() error {
	if err := f.write(); err != nil {
		return err
	}
	return f.write()
}

// write makes the identity durable in the older copy.
func (f *identityFile) write() error {
	f.generation++
	name := identityNames[f.target]
	if err := writeFile(f.o, f.o.path(name), f.encode()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f.target = 1 - f.target
	return nil
}

func readIdentity(fsys FS, name string, c *identityCopy) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	b := make([]byte, identityBytes)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(err, f.Close())
	}
	return errors.Join(c.decode(b[:n]), f.Close())
}

func writeFile(o *Options, path string, content []byte) error {
	f, err := o.FS.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = o.FS.Create(path)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil && !o.NoSync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil || o.NoSync {
		return err
	}
	return o.FS.SyncDir(o.Dir)
}
