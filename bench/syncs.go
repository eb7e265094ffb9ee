package bench

import (
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"multiraft/raftlog"
)

// syncTimer measures the syncs that stores really do under load: a disk that is
// shared with others can be fifty times slower in one second than in the next,
// so what one sync took before the run says little about the run.
type syncTimer struct {
	mu      sync.Mutex // guards the fields below
	open    bool       // the measured window is open
	latency *hdr.Histogram
	total   time.Duration
}

func newSyncTimer() *syncTimer { return &syncTimer{latency: newHistogram()} }

func (t *syncTimer) record(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open {
		return
	}
	t.total += d
	// The bounds make RecordValue succeed.
	_ = t.latency.RecordValue(min(int64(d), maxLatency))
}

func (t *syncTimer) setOpen(open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = open
}

// result returns the latency of syncs in the window, and their sum.
func (t *syncTimer) result() (Latency, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return newLatency(t.latency), t.total
}

// timedFS is the operating system's file system with a timer on syncs of files.
type timedFS struct {
	raftlog.FS
	timer *syncTimer
}

func (f timedFS) Create(name string) (raftlog.File, error) { return f.timed(f.FS.Create(name)) }

func (f timedFS) Open(name string) (raftlog.File, error) { return f.timed(f.FS.Open(name)) }

func (f timedFS) timed(file raftlog.File, err error) (raftlog.File, error) {
	if err != nil {
		return nil, err
	}
	return timedFile{File: file, timer: f.timer}, nil
}

type timedFile struct {
	raftlog.File
	timer *syncTimer
}

func (f timedFile) Sync() error {
	start := time.Now()
	err := f.File.Sync()
	f.timer.record(time.Since(start))
	return err
}
