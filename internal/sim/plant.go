package sim

import (
	"multiraft/batch"
	"multiraft/wire"
)

// Plant names a bug that a run plants into the cluster, to prove that the
// checker finds such bugs.
type Plant uint8

const (
	// PlantNothing leaves the cluster as it is.
	PlantNothing Plant = iota
	// PlantLyingSync is a disk that says it has synced and has not, once its
	// store is open.
	PlantLyingSync
	// PlantForgedVotes turns refused votes into granted ones on the way.
	PlantForgedVotes
	// PlantLocalReads serves reads from whatever the asked replica has applied.
	PlantLocalReads
	// PlantTwistedCommand changes a command on its way to one state machine.
	PlantTwistedCommand
)

// forgeVotes returns a payload in which no vote is refused.
func forgeVotes(payload []byte) []byte {
	var out []byte
	builder := batch.NewBuilder(func() []byte { return nil }, 8<<20)
	var reader batch.Reader
	reader.Reset(payload)
	forged := false
	for {
		var m wire.Message
		ok, err := reader.Next(&m)
		if err != nil {
			return payload
		}
		if !ok {
			break
		}
		if m.Kind == wire.VoteResponse && m.Reject {
			m.Reject, forged = false, true
		}
		builder.Add(&m)
	}
	if !forged {
		return payload
	}
	_ = builder.Flush(func(_ wire.Lane, p []byte) error { // its only errors are those of this function
		out = append(out, p...)
		return nil
	})
	return out
}
