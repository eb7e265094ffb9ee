package sim

import (
	"time"

	"multiraft/internal/vfs"
)

// A step of the log writes and syncs in one event, so that a crash between two
// events finds everything synced: what a power cut does to unsynced sectors and names
// would hardly ever be met. Stores that die do so at one of the calls to the disk
// that come next, where there are any.

// streamTorn is the stream of what crashes hit, beside those in random.go.
const streamTorn = 1 << 8

const (
	// tornCalls bounds at which call. A step of the log that begins no segment writes
	// once and syncs once.
	tornCalls = 4
	// tornPatience is for how long a crash waits for that call.
	tornPatience = 200 * time.Millisecond
)

// dieSoon crashes a site at one of its next calls to the disk that change anything.
func (s *site) dieSoon(o vfs.CrashOptions) {
	if s.paused || s.hung || s.failing || !s.torn.chance(0.8) {
		s.crash(o)
		return
	}
	s.volume.crashIn, s.volume.crashAs = 1+s.torn.IntN(tornCalls), o
	life := s.life
	s.c.later(tornPatience, func() {
		if s.life == life {
			s.crash(o)
		}
	})
}

// dieWriting has a store that dies now do so in the middle of what it was about to
// write.
func (s *site) dieWriting(o vfs.CrashOptions) {
	v := s.volume
	if v.crashed || s.failing || s.paused || s.hung {
		return
	}
	if l := s.c.loss; l != nil && l.site == s {
		return // its replicas may be dead already, and must not say anything more
	}
	v.crashIn, v.crashAs = 1+s.torn.IntN(tornCalls), o
	switch {
	case s.parts[s.snapshotPart()] && s.torn.chance(0.3):
		s.stepper.Snapshots()
	case s.parts[s.maintainPart()] && s.torn.chance(0.3):
		s.stepper.Maintain()
	case s.parts[s.logPart()]:
		s.stepper.Log()
	}
	if v.crashed {
		s.c.count(crashesInStep)
	}
	v.crashIn = 0
}
