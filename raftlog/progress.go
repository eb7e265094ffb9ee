package raftlog

// Progress tells how many cycles of the writer have ended, and whether one is
// under way or due. A count that stands still while the writer is busy is a disk
// that does not answer.
func (l *Log) Progress() (cycles uint64, busy bool) {
	cycles = l.counts.cycles.Load()
	if l.counts.busy.Load() {
		return cycles, true
	}
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	return cycles, len(l.queue) > 0
}
