package bench

import (
	"runtime/metrics"
	"time"
)

// sample is what the process and the stores have used so far. The difference of
// two is what a window cost.
type sample struct {
	at time.Time
	counts
}

// usage is what a window cost.
type usage struct {
	seconds float64
	counts
}

// counts are what is counted, since the start in a sample and within the window
// in a usage.
type counts struct {
	cpu          time.Duration
	hostCPU      time.Duration
	allocs       uint64
	allocBytes   uint64
	gcCycles     uint64
	gcCPUSeconds float64
	syncs        int64
	logBytes     int64
	wireBytes    int64
	wireFrames   int64
	elections    int64
	made         int64 // snapshots
	installed    int64
}

// runtimeMetrics are read without stopping the world. The runtime counts
// objects below 16 bytes without pointers apart, as tiny.
var runtimeMetrics = []string{
	"/gc/heap/allocs:objects",
	"/gc/heap/tiny/allocs:objects",
	"/gc/heap/allocs:bytes",
	"/gc/cycles/total:gc-cycles",
	"/cpu/classes/gc/total:cpu-seconds",
}

// sampler takes samples without allocating much.
type sampler struct {
	cluster *cluster
	metrics []metrics.Sample
}

func newSampler(c *cluster) *sampler {
	s := &sampler{cluster: c, metrics: make([]metrics.Sample, len(runtimeMetrics))}
	for i, name := range runtimeMetrics {
		s.metrics[i].Name = name
	}
	return s
}

func (s *sampler) take() sample {
	metrics.Read(s.metrics)
	sum := sample{at: time.Now(), counts: counts{
		cpu:        cpuTime(),
		allocs:     uintMetric(&s.metrics[0]) + uintMetric(&s.metrics[1]),
		allocBytes: uintMetric(&s.metrics[2]),
		gcCycles:   uintMetric(&s.metrics[3]),
	}}
	if v := s.metrics[4].Value; v.Kind() == metrics.KindFloat64 {
		sum.gcCPUSeconds = v.Float64()
	}
	if host, ok := hostCPUTime(); ok {
		sum.hostCPU = host
	} else {
		sum.hostCPU = sum.cpu // then nothing is known of others
	}
	for _, store := range s.cluster.stores {
		m := store.Metrics()
		sum.syncs += m.Syncs
		sum.logBytes += m.LogBytes
		sum.wireBytes += m.WireBytes
		sum.wireFrames += m.WireFrames
		sum.elections += m.Elections
		sum.made += m.SnapshotsMade
		sum.installed += m.SnapshotsInstalled
	}
	return sum
}

// uintMetric returns 0 for a metric that this version of Go does not have.
func uintMetric(s *metrics.Sample) uint64 {
	if s.Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s.Value.Uint64()
}

// since returns what was used from earlier to s.
func (s sample) since(earlier sample) usage {
	return usage{seconds: s.at.Sub(earlier.at).Seconds(), counts: counts{
		cpu:          s.cpu - earlier.cpu,
		hostCPU:      s.hostCPU - earlier.hostCPU,
		allocs:       s.allocs - earlier.allocs,
		allocBytes:   s.allocBytes - earlier.allocBytes,
		gcCycles:     s.gcCycles - earlier.gcCycles,
		gcCPUSeconds: s.gcCPUSeconds - earlier.gcCPUSeconds,
		syncs:        s.syncs - earlier.syncs,
		logBytes:     s.logBytes - earlier.logBytes,
		wireBytes:    s.wireBytes - earlier.wireBytes,
		wireFrames:   s.wireFrames - earlier.wireFrames,
		elections:    s.elections - earlier.elections,
		made:         s.made - earlier.made,
		installed:    s.installed - earlier.installed,
	}}
}
