package group

import (
	"errors"
	"fmt"
)

// Tuning is what groups of one kind have in common. Many groups share one
// through a pointer, so it must not change once a group uses it. The zero value
// of every field selects its default.
type Tuning struct {
	// ElectionTicks is how long a follower waits at least without hearing from a
	// leader; each wait is drawn from [ElectionTicks, 2*ElectionTicks). A leader
	// that does not hear from a quorum for as long steps down. Zero means 20.
	// Must exceed HeartbeatTicks; ten times as much is a good ratio.
	ElectionTicks int
	// HeartbeatTicks is how often a leader is heard at least. Zero means 2.
	HeartbeatTicks int
	// MaxMessageBytes bounds the entries in one append. A single larger entry
	// travels alone. Zero means 1 MiB.
	MaxMessageBytes int
	// MaxInflightMessages bounds unanswered appends per peer. Zero means 64.
	MaxInflightMessages int
	// MaxInflightBytes bounds unanswered bytes per peer and so, by Little's law,
	// throughput: at 100 ms round trip, 1 MiB caps a group at 10 MiB/s. An append
	// is sent while less than this is unanswered. Zero means 4 MiB.
	MaxInflightBytes int
	// MaxUncommittedBytes bounds the payloads a leader accepts beyond its commit
	// index; Propose returns ErrBusy behind it. One larger proposal passes when
	// nothing is uncommitted. Zero means 16 MiB.
	MaxUncommittedBytes int
	// MaxCommittedBytes bounds the entries one Ready hands out for applying, and
	// stops handing out while as much is handed out and not applied. A single
	// larger block is handed out alone. Zero means 4 MiB.
	MaxCommittedBytes int
	// MaxTailBytes bounds the entries kept in memory for peers that have been
	// sent them and have not answered; beyond it they are read from storage when
	// needed again. Entries not stable, not committed, not handed out or not sent
	// yet are kept besides, up to MaxTailBytes + MaxInflightBytes in all, above
	// which only those not stable or not committed stay. Zero means 256 KiB.
	MaxTailBytes int
	// StayWhenRemoved lets a leader that is no voter any more lead on until it is
	// stopped or hands over. Otherwise it steps down when it has applied that.
	StayWhenRemoved bool
	// LeaseReads makes voters promise their leader not to vote for others for
	// ElectionTicks, so that LeaseIndex answers reads. It needs check-quorum. Ticks
	// must come from a clock that counts while the process stands still; the engine
	// brings one. Replicas may be switched one after the other, in either direction:
	// voters without it promise nothing, and are not counted. Where it is switched
	// off, or promises become shorter, see Config.Promised.
	LeaseReads bool
	// TickNanos is how many nanoseconds a tick takes. Voters tell their leader how
	// long their promises last, so replicas may differ in ElectionTicks and in this.
	// Zero means that ticks are as long on all replicas. The engine fills it in.
	TickNanos int64
	// MaxClockDrift bounds, in percent, by how much the clocks of any two stores
	// differ in rate. A lease is shorter by as much. Zero means 10.
	MaxClockDrift int
	// DisablePreVote lets a follower raise its term without asking first whether
	// it could win. Then a replica that was cut off disturbs the group on return.
	DisablePreVote bool
	// DisableCheckQuorum lets a leader without a quorum go on, and lets followers
	// vote although their leader is alive.
	DisableCheckQuorum bool
}

// WithDefaults returns t with the defaults filled in. A caller that shares one
// Tuning between groups fills it once, so that New does not have to copy it.
func (t Tuning) WithDefaults() Tuning {
	fill := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	fill(&t.ElectionTicks, 20)
	fill(&t.HeartbeatTicks, 2)
	fill(&t.MaxMessageBytes, 1<<20)
	fill(&t.MaxInflightMessages, 64)
	fill(&t.MaxInflightBytes, 4<<20)
	fill(&t.MaxUncommittedBytes, 16<<20)
	fill(&t.MaxCommittedBytes, 4<<20)
	fill(&t.MaxTailBytes, 256<<10)
	fill(&t.MaxClockDrift, 10)
	return t
}

// maxTuningTicks and maxTuningBytes keep sums of settings far from overflow.
const (
	maxTuningTicks = 1 << 29
	maxTuningBytes = 1 << 40
)

// Validate reports all faults of the settings, as they are with the defaults
// filled in.
func (t *Tuning) Validate() error {
	var faults []error
	d := t.WithDefaults()
	within := func(name string, value, limit int) {
		if value < 1 || value > limit {
			faults = append(faults, fmt.Errorf("%s: %d must be between 1 and %d", name, value, limit))
		}
	}
	within("ElectionTicks", d.ElectionTicks, maxTuningTicks)
	within("HeartbeatTicks", d.HeartbeatTicks, maxTuningTicks)
	if d.ElectionTicks <= d.HeartbeatTicks {
		faults = append(faults, fmt.Errorf("ElectionTicks: %d must exceed HeartbeatTicks (%d)", d.ElectionTicks, d.HeartbeatTicks))
	}
	within("MaxMessageBytes", d.MaxMessageBytes, maxTuningBytes)
	within("MaxInflightMessages", d.MaxInflightMessages, 1<<20)
	within("MaxInflightBytes", d.MaxInflightBytes, maxTuningBytes)
	within("MaxUncommittedBytes", d.MaxUncommittedBytes, maxTuningBytes)
	within("MaxCommittedBytes", d.MaxCommittedBytes, maxTuningBytes)
	within("MaxTailBytes", d.MaxTailBytes, maxTuningBytes)
	within("MaxClockDrift", d.MaxClockDrift, 50)
	if d.TickNanos < 0 {
		faults = append(faults, fmt.Errorf("TickNanos: %d must not be negative", d.TickNanos))
	}
	if d.LeaseReads && d.DisableCheckQuorum {
		faults = append(faults, errors.New("LeaseReads: needs check-quorum, and DisableCheckQuorum is set"))
	}
	if d.LeaseReads && d.leaseTicks(d.promiseSpan()) <= uint64(d.HeartbeatTicks) {
		faults = append(faults, fmt.Errorf("LeaseReads: a lease of %d ticks must exceed HeartbeatTicks (%d)", d.leaseTicks(d.promiseSpan()), d.HeartbeatTicks))
	}
	return errors.Join(faults...)
}
