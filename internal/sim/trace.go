package sim

import (
	"fmt"
	"io"
	"math/bits"

	"multiraft/wire"
)

// trace is what happened, as one number that two runs of a seed must share, and
// as text when somebody wants to read it.
type trace struct {
	hash uint64
	out  io.Writer
}

// mix adds a fact to the hash. Order counts.
func (t *trace) mix(fact uint64) {
	t.hash = (bits.RotateLeft64(t.hash, 23) ^ fact) * 0x9e3779b97f4a7c15
}

// on tells whether somebody reads.
func (t *trace) on() bool { return t.out != nil }

// note writes a line of the readable trace.
func (c *cluster) note(format string, args ...any) {
	if c.trace.on() {
		// Whoever gave the writer is told what it cannot take.
		_, _ = fmt.Fprintf(c.trace.out, "%12.6f  %s\n", c.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// describe is a message as one line: only the fields that its kind has.
func describe(m *wire.Message) string {
	head := fmt.Sprintf("group %d: %d ─▶ %d %v term %d", m.Group, m.From, m.To, m.Kind, m.Term)
	reject := ""
	if m.Reject {
		reject = " refused"
	}
	switch m.Kind {
	case wire.Append:
		text := fmt.Sprintf("%s after %d/%d commit %d", head, m.Index, m.LogTerm, m.Commit)
		for rest := m.Entries; len(rest) > 0; {
			block, more, err := wire.ParseBlock(rest)
			if err != nil {
				return text + " and bad bytes"
			}
			rest = more
			text += fmt.Sprintf(" [%d,%d]/%d", block.First(), block.Last(), block.Term())
		}
		return text
	case wire.AppendResponse:
		if m.Reject {
			return fmt.Sprintf("%s refused %d, try %d/%d", head, m.Index, m.Hint, m.LogTerm)
		}
		return fmt.Sprintf("%s match %d", head, m.Index)
	case wire.PreVote, wire.Vote:
		return fmt.Sprintf("%s last %d/%d", head, m.Index, m.LogTerm)
	case wire.PreVoteResponse, wire.VoteResponse:
		return head + reject
	case wire.Heartbeat:
		return fmt.Sprintf("%s commit %d round %d", head, m.Commit, m.Context)
	case wire.HeartbeatResponse:
		return fmt.Sprintf("%s round %d", head, m.Context)
	}
	return fmt.Sprintf("%s%s index %d context %d", head, reject, m.Index, m.Context)
}
