package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"multiraft/engine"
	"multiraft/scheduler"
	"multiraft/wire"
)

// Mode is how writes are proposed.
type Mode string

const (
	// ModeAsync keeps Config.Inflight writes in flight per store with
	// [engine.Group.ProposeAsync] from one goroutine per store.
	ModeAsync Mode = "async"
	// ModeSync runs Config.Clients goroutines per store that call
	// [engine.Group.Propose] and wait.
	ModeSync Mode = "sync"
	// ModeBatch keeps Config.Inflight writes in flight per store in batches of
	// Config.Batch writes over as many groups, with [engine.Store.ProposeBatch].
	ModeBatch Mode = "batch"
)

// Workload is what the operations are.
type Workload string

const (
	WorkloadWrite Workload = "write"
	// WorkloadRead reads with [engine.Group.Read], linearizable.
	WorkloadRead Workload = "read"
	// WorkloadMixed reads with the share Config.ReadRatio and writes otherwise.
	WorkloadMixed Workload = "mixed"
)

// Transport is what connects the stores.
type Transport string

const (
	TransportTCP    Transport = "tcp" // loopback
	TransportMemory Transport = "mem" // hand-over within the process
)

// NoWarmup as Config.Warmup measures from the first operation on.
const NoWarmup time.Duration = -1

// sequenceBytes is what the sequence number of a write takes at the start of
// its payload when writes are verified.
const sequenceBytes = 8

// Config of a benchmark. The zero value of every field selects its default, so
// the zero Config is a sensible benchmark of ten seconds.
type Config struct {
	// Stores in this process. Zero means 3.
	Stores int `json:"stores"`
	// Groups on those stores. Zero means 256.
	Groups int `json:"groups"`
	// Replicas of each group, at most Stores. Zero means 3, or Stores when that
	// is less. Group g has its replicas on the stores from g mod Stores on.
	Replicas int `json:"replicas"`
	// Payload is the size of a write in bytes. Zero means 16. With Verify the
	// first 8 bytes are a sequence number.
	Payload int `json:"payload"`
	// Mode of proposing. Empty means async.
	Mode Mode `json:"mode"`
	// Inflight bounds the operations in flight per store in modes async and
	// batch. Zero means 4096.
	Inflight int `json:"inflight"`
	// Clients is the number of goroutines per store that operate in mode sync,
	// and that read in mode async. Zero means 64.
	Clients int `json:"clients"`
	// Batch is the number of writes per batch in mode batch. Zero means 256,
	// or Inflight when that is less.
	Batch int `json:"batch"`
	// Workload is what the operations are. Empty means write.
	Workload Workload `json:"workload"`
	// ReadRatio is the share of reads in a mixed workload. Zero means 0.9.
	ReadRatio float64 `json:"read_ratio"`
	// Active is the share of the groups that get any load. Zero means 1, all.
	Active float64 `json:"active"`
	// Rate is the number of operations per second to start over all stores,
	// whether earlier ones are done or not (open loop). Latency then counts from
	// the intended start. Zero means closed loop: as fast as answers come.
	Rate float64 `json:"rate"`
	// Shed has an open loop leave out operations that are refused, or that the load
	// itself is late for, instead of being late with all that follow. Only in mode
	// async.
	Shed bool `json:"shed"`
	// InflightBytes is how much the engine lets in per store. Zero leaves it to the
	// engine.
	InflightBytes int64 `json:"inflight_bytes"`
	// Duration of the measured window. Zero means 10 s.
	Duration time.Duration `json:"-"`
	// Warmup is the load before that window. Zero means 3 s, [NoWarmup] none.
	Warmup time.Duration `json:"-"`
	// Transport between the stores. Empty means tcp.
	Transport Transport `json:"transport"`
	// NoSync leaves out all syncs of the log. The figures then are not those of
	// an engine that keeps its promises.
	NoSync bool `json:"-"`
	// Dir gets one directory per store. Empty means a fresh scratch directory in
	// the working directory, removed at the end; the directory for temporary
	// files is avoided because it is often kept in memory.
	Dir string `json:"dir"`
	// Keep leaves the stores' directories behind. They are kept anyway when a
	// verification fails.
	Keep bool `json:"keep"`
	// Seed of election time-outs, payloads and moments of killing. Zero picks
	// one, named in the report.
	Seed uint64 `json:"seed"`
	// Verify checks after the load that every acknowledged write is in every
	// replica, that none was applied twice, and that replicas agree.
	Verify bool `json:"verify"`
	// Snapshots has each group make one after so many writes and compact its log, a
	// tenth of them aside, so that logs stay short however long the run is. A
	// verification then goes through snapshots. Zero makes none.
	Snapshots uint64 `json:"snapshots"`
	// Procs sets GOMAXPROCS of the process for the time of the run: a thread
	// that blocks in a sync holds one until the runtime notices. Zero leaves it.
	Procs int `json:"procs"`
	// GCPercent sets GOGC for the time of the run. Zero leaves it.
	GCPercent int `json:"gc_percent"`
	// Workers and Appliers per store, at most [scheduler.MaxWorkers] of the first.
	// Zero leaves them to the engine.
	Workers  int `json:"workers"`
	Appliers int `json:"appliers"`
	// SegmentBytes of the stores' logs. Zero leaves it to the engine.
	SegmentBytes int64 `json:"segment_bytes"`
	// CPUProfile and AllocProfile name files for profiles of the measured
	// window. Empty means none.
	CPUProfile   string `json:"cpu_profile,omitempty"`
	AllocProfile string `json:"alloc_profile,omitempty"`
	// StartTimeout bounds the wait until every group has a leader. Zero means
	// one minute and 10 ms per group.
	StartTimeout time.Duration `json:"-"`
	// SettleTimeout bounds the wait for operations in flight at the end, and
	// the wait for replicas to catch up before they are verified. Zero means
	// one minute.
	SettleTimeout time.Duration `json:"-"`
}

// configJSON is how a Config looks in JSON: sync as the flag says it, and
// durations in seconds.
type configJSON struct {
	configFields
	Sync           bool    `json:"sync"`
	DurationSecs   float64 `json:"duration_s"`
	WarmupSecs     float64 `json:"warmup_s"`
	StartTimeoutS  float64 `json:"start_timeout_s"`
	SettleTimeoutS float64 `json:"settle_timeout_s"`
}

// configFields is Config without its methods.
type configFields Config

// MarshalJSON writes durations in seconds and a missing warm-up as 0.
func (c Config) MarshalJSON() ([]byte, error) {
	return json.Marshal(configJSON{
		configFields:   configFields(c),
		Sync:           !c.NoSync,
		DurationSecs:   c.Duration.Seconds(),
		WarmupSecs:     max(c.Warmup, 0).Seconds(),
		StartTimeoutS:  c.StartTimeout.Seconds(),
		SettleTimeoutS: c.SettleTimeout.Seconds(),
	})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Config) UnmarshalJSON(b []byte) error {
	j := configJSON{Sync: true}
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*c = Config(j.configFields)
	c.NoSync = !j.Sync
	c.Duration = seconds(j.DurationSecs)
	if c.Warmup = seconds(j.WarmupSecs); c.Warmup == 0 {
		c.Warmup = NoWarmup
	}
	c.StartTimeout = seconds(j.StartTimeoutS)
	c.SettleTimeout = seconds(j.SettleTimeoutS)
	return nil
}

func seconds(s float64) time.Duration {
	return time.Duration(math.Round(s * float64(time.Second)))
}

// WithDefaults returns a copy in which every zero value is replaced. The seed
// stays zero when it is; [Run] picks one.
func (c Config) WithDefaults() Config {
	fill(&c.Stores, 3)
	fill(&c.Groups, 256)
	fill(&c.Replicas, min(defaultReplicas, c.Stores))
	fill(&c.Payload, 16)
	fill(&c.Mode, ModeAsync)
	fill(&c.Inflight, 4096)
	fill(&c.Clients, 64)
	fill(&c.Batch, min(256, c.Inflight))
	fill(&c.Workload, WorkloadWrite)
	fill(&c.ReadRatio, 0.9)
	fill(&c.Active, 1)
	fill(&c.Duration, 10*time.Second)
	fill(&c.Warmup, 3*time.Second)
	fill(&c.Transport, TransportTCP)
	fill(&c.StartTimeout, time.Minute+time.Duration(c.Groups)*10*time.Millisecond)
	fill(&c.SettleTimeout, time.Minute)
	return c
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// defaultReplicas is how many replicas a group has when nothing is said and
// there are stores enough.
const defaultReplicas = 3

// lowered says, of a configuration before its defaults, that there will be fewer
// replicas than the default for want of stores. It is "" when there will not, or
// when the number was asked for.
func (c *Config) lowered() string {
	full := c.WithDefaults()
	if c.Replicas != 0 || full.Replicas >= defaultReplicas {
		return ""
	}
	return fmt.Sprintf("%s of each group instead of %d, for there are no more stores", plural(full.Replicas, "replica"), defaultReplicas)
}

// Bounds of a configuration. They keep a typing error from taking the machine
// down, and are far above what one process can use.
const (
	maxStores   = 64
	maxReplicas = 7 // the engine's limit of initial voters
	maxGroups   = 1_000_000
	maxPayload  = 1 << 20 // the engine's limit of one command
	minSegment  = 4 << 20 // the engine's limit for commands of maxPayload
	maxSegment  = 1 << 30
	maxInflight = 1 << 22
	// What the engine lets in must hold its largest command.
	minInflightBytes, maxInflightBytes = 2 << 20, 1 << 40
	maxClients                         = 1 << 16
	maxProcs                           = 1 << 10
	maxRate                            = 1e9
	maxDuration                        = 24 * time.Hour
	// maxSnapshotWrites is as good as never.
	maxSnapshotWrites = 1 << 40
)

// DefaultSnapshots is what mrbench takes for Config.Snapshots when it is asked for
// snapshots and for no number.
const DefaultSnapshots = 10_000

// Validate reports all faults at once, each as an [*engine.ConfigError] with
// field, value and rule. It changes nothing.
func (c Config) Validate() error {
	var faults []error
	fault := func(field string, value any, rule string, args ...any) {
		faults = append(faults, &engine.ConfigError{Field: field, Value: value, Rule: fmt.Sprintf(rule, args...)})
	}
	count := func(field string, value, low, high int) {
		if value < low || value > high {
			fault(field, value, "must be %d to %d", low, high)
		}
	}
	c = c.WithDefaults()
	count("Stores", c.Stores, 1, maxStores)
	count("Groups", c.Groups, 1, maxGroups)
	count("Replicas", c.Replicas, 1, maxReplicas)
	if c.Replicas > c.Stores {
		fault("Replicas", c.Replicas, "must not exceed Stores (%d): a store holds at most one replica of a group", c.Stores)
	}
	count("Payload", c.Payload, 1, maxPayload)
	if c.Verify && c.Payload < sequenceBytes {
		fault("Payload", c.Payload, "must be at least %d with Verify: the first %d bytes are a sequence number", sequenceBytes, sequenceBytes)
	}
	switch c.Mode {
	case ModeAsync, ModeSync, ModeBatch:
	default:
		fault("Mode", c.Mode, "must be async, sync or batch")
	}
	count("Inflight", c.Inflight, 1, maxInflight)
	count("Clients", c.Clients, 1, maxClients)
	if c.Mode == ModeBatch {
		count("Batch", c.Batch, 1, maxInflight)
		if c.Batch > c.Inflight {
			fault("Batch", c.Batch, "must not exceed Inflight (%d)", c.Inflight)
		}
	}
	switch c.Workload {
	case WorkloadWrite:
	case WorkloadRead, WorkloadMixed:
		if c.Mode == ModeBatch {
			fault("Workload", c.Workload, "must be write in mode batch: there are no batches of reads")
		}
	default:
		fault("Workload", c.Workload, "must be write, read or mixed")
	}
	if !(c.ReadRatio > 0 && c.ReadRatio < 1) {
		fault("ReadRatio", c.ReadRatio, "must be between 0 and 1; for only reads or only writes set Workload")
	}
	if !(c.Active > 0 && c.Active <= 1) {
		fault("Active", c.Active, "must be above 0 and at most 1")
	}
	if c.Shed && (c.Mode != ModeAsync || c.Rate == 0) {
		fault("Shed", c.Shed, "needs mode async and a rate")
	}
	if c.InflightBytes != 0 && (c.InflightBytes < minInflightBytes || c.InflightBytes > maxInflightBytes) {
		fault("InflightBytes", c.InflightBytes, "must be 0 or %d to %d", int64(minInflightBytes), int64(maxInflightBytes))
	}
	if !(c.Rate >= 0 && c.Rate <= maxRate) {
		fault("Rate", c.Rate, "must be 0 to %g", maxRate)
	}
	if c.Duration < 0 || c.Duration > maxDuration {
		fault("Duration", c.Duration, "must be positive and at most %v", maxDuration)
	}
	if c.Warmup < NoWarmup || c.Warmup > maxDuration {
		fault("Warmup", c.Warmup, "must be 0 to %v", maxDuration)
	}
	switch c.Transport {
	case TransportTCP, TransportMemory:
	default:
		fault("Transport", c.Transport, "must be tcp or mem")
	}
	if c.Snapshots > maxSnapshotWrites {
		fault("Snapshots", c.Snapshots, "must be 0 to %d", uint64(maxSnapshotWrites))
	}
	count("Procs", c.Procs, 0, maxProcs)
	count("GCPercent", c.GCPercent, 0, 100_000)
	count("Workers", c.Workers, 0, scheduler.MaxWorkers)
	count("Appliers", c.Appliers, 0, maxProcs)
	if c.SegmentBytes != 0 && (c.SegmentBytes < minSegment || c.SegmentBytes > maxSegment) {
		fault("SegmentBytes", c.SegmentBytes, "must be %d to %d", minSegment, maxSegment)
	}
	if c.StartTimeout < 0 {
		fault("StartTimeout", c.StartTimeout, "must be positive")
	}
	if c.SettleTimeout < 0 {
		fault("SettleTimeout", c.SettleTimeout, "must be positive")
	}
	return errors.Join(faults...)
}

// activeGroups is the number of groups under load. Groups are numbered from 1
// and the active ones are the first: consecutive ids lead on different stores,
// so every store gets its part of the load.
func (c *Config) activeGroups() int {
	return min(c.Groups, max(1, int(math.Ceil(c.Active*float64(c.Groups)-1e-9))))
}

// members returns the replicas of a group, on consecutive stores. The replica on
// store s has id s. The engine lets the member at place id mod len lead first;
// they are laid out so that this is store id mod Stores, whatever Replicas is.
func (c *Config) members(id wire.GroupID) []engine.Member {
	members := make([]engine.Member, c.Replicas)
	for i := range members {
		store := (uint64(id)+uint64(i))%uint64(c.Stores) + 1
		place := (uint64(id) + uint64(i)) % uint64(c.Replicas)
		members[place] = engine.Member{Replica: wire.ReplicaID(store), Store: wire.StoreID(store)}
	}
	return members
}

func (c *Config) reads() bool { return c.Workload != WorkloadWrite }
