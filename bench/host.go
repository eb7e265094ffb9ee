package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// Host is what a result was measured on.
type Host struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes uint64 `json:"memory_bytes"`
	OS          string `json:"os"`
	Kernel      string `json:"kernel"`
	Go          string `json:"go"`
	GOMAXPROCS  int    `json:"gomaxprocs"`
	Dir         string `json:"dir"`
	FileSystem  string `json:"file_system"`
	// Sync is "real" when a sync reaches a file system on a disk, "memory" when
	// the file system has none, "off" when the log was not synced.
	Sync string `json:"sync"`
	// SyncMicros is the median time of one write of 4 KiB and its fdatasync
	// into a file that was written before, measured before the run, alone.
	SyncMicros float64 `json:"sync_us"`
}

// describeHost gathers the facts; those that the system does not tell stay
// empty.
func describeHost(dir string, noSync bool) (Host, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Host{}, err
	}
	h := Host{
		CPU:         cpuModel(),
		Cores:       runtime.NumCPU(),
		MemoryBytes: memoryBytes(),
		OS:          runtime.GOOS + "/" + runtime.GOARCH,
		Kernel:      kernelRelease(),
		Go:          runtime.Version(),
		GOMAXPROCS:  runtime.GOMAXPROCS(0),
		Dir:         abs,
		Sync:        "real",
	}
	var inMemory bool
	h.FileSystem, inMemory = fileSystem(dir)
	switch {
	case noSync:
		h.Sync = "off"
	case inMemory:
		h.Sync = "memory"
	}
	h.SyncMicros, err = probeSync(dir)
	return h, err
}

const (
	probeSyncs = 32
	probeBytes = 4096
)

// probeSync measures one durable write, the unit that everything on a disk is
// made of.
func probeSync(dir string) (micros float64, err error) {
	f, err := os.CreateTemp(dir, "probe-")
	if err != nil {
		return 0, fmt.Errorf("measure a sync: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, probeBytes)
	if _, err := f.WriteAt(make([]byte, probeSyncs*probeBytes), 0); err != nil {
		return 0, fmt.Errorf("measure a sync: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("measure a sync: %w", err)
	}
	times := make([]time.Duration, probeSyncs)
	for i := range times {
		start := time.Now()
		if _, err := f.WriteAt(block, int64(i*probeBytes)); err != nil {
			return 0, fmt.Errorf("measure a sync: %w", err)
		}
		if err := dataSync(f); err != nil {
			return 0, fmt.Errorf("measure a sync: %w", err)
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return float64(times[probeSyncs/2]) / 1e3, nil
}
