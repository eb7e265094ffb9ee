package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"multiraft/raftlog"
)

// With lease reads the replicas of a store promise their leaders silence. A store
// that starts again does not know to whom, and owes it to all for as long: also when
// it has no leases now, or shorter time-outs. So how long promises last is kept in
// the directory, as the name of an empty file:
//
//	promise-00000001000000000    nanoseconds, 20 digits
//
// It is durable before anything is promised. Of several files the longest counts. One
// that is longer than what is promised now goes when the store is closed and has lived
// for longer than that.
type promises struct {
	fs     raftlog.FS
	dir    string
	noSync bool
	spans  []time.Duration // of all files
	own    time.Duration   // what is promised in this life; zero without leases
	ticks  uint64          // from the start, what was promised before may be in force
}

const (
	promisePrefix = "promise-"
	promiseDigits = 20
)

// promiseSpan returns the span that a file name stands for.
func promiseSpan(base string) (span time.Duration, ok bool) {
	digits, ok := strings.CutPrefix(base, promisePrefix)
	if !ok || len(digits) != promiseDigits {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	return time.Duration(n), err == nil && n > 0
}

func (p *promises) name(span time.Duration) string {
	return filepath.Join(p.dir, fmt.Sprintf("%s%0*d", promisePrefix, promiseDigits, uint64(span)))
}

// openPromises finds out what may be owed, and notes what will be.
//
// REQUIRES: the log is open, and with it the directory is locked.
func openPromises(s *Store) (*promises, error) {
	tuning := &s.cfg.Tuning
	p := &promises{fs: s.files(), dir: s.cfg.Dir, noSync: s.cfg.NoSync}
	if tuning.LeaseReads {
		p.own = spanOf(tuning.ElectionTicks, s.cfg.TickInterval)
	}
	names, err := p.fs.List(p.dir)
	if err != nil {
		return nil, fmt.Errorf("promises of earlier lives: %w", err)
	}
	owed := time.Duration(0)
	for _, base := range names {
		if span, ok := promiseSpan(base); ok {
			p.spans = append(p.spans, span)
			owed = max(owed, span)
		}
	}
	if owed > 0 {
		p.ticks = uint64((owed-1)/s.cfg.TickInterval) + 2 // the tick of the start is not whole
	}
	if p.own > 0 && !slices.Contains(p.spans, p.own) {
		if err := p.add(p.own); err != nil {
			return nil, fmt.Errorf("note the length of promises: %w", err)
		}
	}
	return p, nil
}

// maxPromise is what a longer promise is noted as: longer than any store is down.
const maxPromise = time.Duration(1<<63 - 1)

// spanOf returns the time that ticks take.
func spanOf(ticks int, interval time.Duration) time.Duration {
	if time.Duration(ticks) > maxPromise/interval {
		return maxPromise
	}
	return time.Duration(ticks) * interval
}

func (p *promises) add(span time.Duration) error {
	f, err := p.fs.Create(p.name(span))
	if err != nil {
		return err
	}
	if !p.noSync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	p.spans = append(p.spans, span)
	return p.syncDir()
}

func (p *promises) syncDir() error {
	if p.noSync {
		return nil
	}
	return p.fs.SyncDir(p.dir)
}

// owed returns for how many ticks a group that starts now owes silence to leaders
// of earlier lives.
func (p *promises) owed(now uint64) uint64 {
	if now >= p.ticks {
		return 0
	}
	return p.ticks
}

// close removes what is longer than the promises of this life, if all of earlier
// ones are over. A failure costs the next life a wait and nothing else.
func (p *promises) close(now uint64) error {
	if p.owed(now) > 0 {
		return nil
	}
	removed := false
	for _, span := range p.spans {
		if span == p.own {
			continue
		}
		if err := p.fs.Remove(p.name(span)); err != nil {
			return fmt.Errorf("promises of earlier lives: %w", err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return p.syncDir()
}
