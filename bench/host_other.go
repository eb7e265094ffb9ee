//go:build !linux

package bench

import (
	"os"
	"time"
)

// On other systems the benchmark runs and these facts are left out.

func cpuModel() string                 { return "" }
func memoryBytes() uint64              { return 0 }
func kernelRelease() string            { return "" }
func fileSystem(string) (string, bool) { return "", false }
func dataSync(f *os.File) error        { return f.Sync() }
func cpuTime() time.Duration           { return 0 }
func residentBytes() uint64            { return 0 }

func hostCPUTime() (time.Duration, bool) { return 0, false }
