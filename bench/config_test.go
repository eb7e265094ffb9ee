package bench

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/scheduler"
	"multiraft/wire"
)

func TestConfigDefaultsAreValid(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Fatal(err)
	}
	c := Config{}.WithDefaults()
	if c.Stores != 3 || c.Groups != 256 || c.Replicas != 3 || c.Payload != 16 || c.Mode != ModeAsync ||
		c.Duration != 10*time.Second || c.Warmup != 3*time.Second || c.Transport != TransportTCP || c.NoSync {
		t.Errorf("defaults: %+v", c)
	}
	if one := (Config{Stores: 1}).WithDefaults(); one.Replicas != 1 {
		t.Errorf("one store: %d replicas", one.Replicas)
	}
	if err := (Config{Stores: 1, Inflight: 3, Mode: ModeBatch}).Validate(); err != nil {
		t.Errorf("defaults must fit each other: %v", err)
	}
}

// Replicas that the stores cannot hold are lowered, and that is told, unless
// their number was asked for.
func TestConfigLowersReplicas(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, ""},
		{Config{Stores: 1}, "1 replica of each group instead of 3, for there are no more stores"},
		{Config{Stores: 2}, "2 replicas of each group instead of 3, for there are no more stores"},
		{Config{Stores: 1, Replicas: 1}, ""},
		{Config{Replicas: 1}, ""},
		{Config{Stores: 5}, ""},
	} {
		if got := tc.cfg.lowered(); got != tc.want {
			t.Errorf("%d stores, %d replicas: got %q, want %q", tc.cfg.Stores, tc.cfg.Replicas, got, tc.want)
		}
	}
}

// Every rule refuses the values beyond its edge and takes those on it, and
// names the field.
func TestConfigRules(t *testing.T) {
	for _, tc := range []struct {
		field string
		bad   Config
		good  Config
	}{
		{"Stores", Config{Stores: -1}, Config{Stores: 1}},
		{"Stores", Config{Stores: maxStores + 1}, Config{Stores: maxStores}},
		{"Groups", Config{Groups: maxGroups + 1}, Config{Groups: maxGroups}},
		{"Replicas", Config{Replicas: 4}, Config{Replicas: 4, Stores: 4}},
		{"Replicas", Config{Replicas: 8, Stores: 9}, Config{Replicas: 7, Stores: 9}},
		{"Payload", Config{Payload: -3}, Config{Payload: 1}},
		{"Payload", Config{Payload: 7, Verify: true}, Config{Payload: 8, Verify: true}},
		{"Mode", Config{Mode: "fast"}, Config{Mode: ModeSync}},
		{"Inflight", Config{Inflight: maxInflight + 1}, Config{Inflight: maxInflight}},
		{"Clients", Config{Clients: -1}, Config{Clients: 1}},
		{"Batch", Config{Mode: ModeBatch, Batch: 11, Inflight: 10}, Config{Mode: ModeBatch, Batch: 10, Inflight: 10}},
		{"Workload", Config{Workload: "scan"}, Config{Workload: WorkloadRead}},
		{"Workload", Config{Workload: WorkloadMixed, Mode: ModeBatch}, Config{Workload: WorkloadMixed, Mode: ModeSync}},
		{"ReadRatio", Config{ReadRatio: 1}, Config{ReadRatio: 0.99}},
		{"ReadRatio", Config{ReadRatio: math.NaN()}, Config{ReadRatio: 0.01}},
		{"Active", Config{Active: 1.01}, Config{Active: 1}},
		{"Active", Config{Active: math.NaN()}, Config{Active: 1e-9}},
		{"Snapshots", Config{Snapshots: maxSnapshotWrites + 1}, Config{Snapshots: maxSnapshotWrites}},
		{"Rate", Config{Rate: -1}, Config{Rate: 0.5}},
		{"Rate", Config{Rate: math.Inf(1)}, Config{Rate: maxRate}},
		{"Duration", Config{Duration: -time.Second}, Config{Duration: time.Millisecond}},
		{"Warmup", Config{Warmup: -time.Second}, Config{Warmup: NoWarmup}},
		{"Transport", Config{Transport: "udp"}, Config{Transport: TransportMemory}},
		{"Procs", Config{Procs: -1}, Config{Procs: 8}},
		{"GCPercent", Config{GCPercent: -1}, Config{GCPercent: 400}},
		{"Workers", Config{Workers: -1}, Config{Workers: 2}},
		{"Workers", Config{Workers: scheduler.MaxWorkers + 1}, Config{Workers: scheduler.MaxWorkers}},
		{"Appliers", Config{Appliers: -1}, Config{Appliers: 2}},
		{"SegmentBytes", Config{SegmentBytes: minSegment - 1}, Config{SegmentBytes: minSegment}},
		{"StartTimeout", Config{StartTimeout: -1}, Config{StartTimeout: 1}},
		{"SettleTimeout", Config{SettleTimeout: -1}, Config{SettleTimeout: 1}},
	} {
		err := tc.bad.Validate()
		var fault *engine.ConfigError
		if !errors.As(err, &fault) || fault.Field != tc.field {
			t.Errorf("%s: %+v: got %v", tc.field, tc.bad, err)
		}
		if ExitCode(err) != ExitUsage {
			t.Errorf("%s: exit code %d", tc.field, ExitCode(err))
		}
		if err := tc.good.Validate(); err != nil {
			t.Errorf("%s: %+v: %v", tc.field, tc.good, err)
		}
	}
}

func TestConfigReportsAllFaults(t *testing.T) {
	err := Config{Stores: -1, Mode: "x", Workload: "y", Transport: "z"}.Validate()
	if err == nil {
		t.Fatal("no fault")
	}
	for _, field := range []string{"Stores: -1 ", "Mode: x ", "Workload: y ", "Transport: z "} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q is not in %q", field, err)
		}
	}
}

func TestConfigJSONRoundTrip(t *testing.T) {
	want := Config{NoSync: true, Duration: 1500 * time.Millisecond, Warmup: NoWarmup, Seed: math.MaxUint64, Rate: 0.25, Dir: "d"}.WithDefaults()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"sync":false`, `"duration_s":1.5`, `"warmup_s":0`, `"mode":"async"`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("%s is not in %s", part, b)
		}
	}
	var got Config
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Whatever the numbers of stores and replicas, leaders are spread evenly, over
// the active groups too.
func TestMembersSpreadLeaders(t *testing.T) {
	for stores := 1; stores <= 8; stores++ {
		for replicas := 1; replicas <= min(stores, 7); replicas++ {
			c := Config{Stores: stores, Replicas: replicas, Groups: 8 * 7 * 5 * 9}.WithDefaults()
			leads := make(map[wire.StoreID]int)
			for place := range c.Groups {
				id := groupID(place)
				members := c.members(id)
				seen := make(map[wire.StoreID]bool)
				for _, m := range members {
					if m.Store < 1 || int(m.Store) > stores || seen[m.Store] || m.Replica == 0 {
						t.Fatalf("%d stores, %d replicas, group %d: members %+v", stores, replicas, id, members)
					}
					seen[m.Store] = true
				}
				leads[members[int(uint64(id)%uint64(len(members)))].Store]++
			}
			for s := 1; s <= stores; s++ {
				if got := leads[wire.StoreID(s)]; got != c.Groups/stores {
					t.Errorf("%d stores, %d replicas: store %d leads %d of %d groups", stores, replicas, s, got, c.Groups)
				}
			}
		}
	}
}

func TestActiveGroups(t *testing.T) {
	for _, tc := range []struct {
		groups int
		active float64
		want   int
	}{{256, 1, 256}, {10_000, 0.02, 200}, {3, 0.01, 1}, {10, 0.3, 3}, {10, 0.31, 4}, {1, 1, 1}} {
		c := Config{Groups: tc.groups, Active: tc.active}
		if got := c.activeGroups(); got != tc.want {
			t.Errorf("%d groups, active %v: got %d, want %d", tc.groups, tc.active, got, tc.want)
		}
	}
}
