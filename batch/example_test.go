package batch_test

import (
	"fmt"

	"multiraft/batch"
	"multiraft/wire"
)

// A worker adds what its groups have to say to a peer store and flushes once per
// round; the peer walks the payload.
func Example() {
	b := batch.NewBuilder(func() []byte { return nil }, 0)
	for group := wire.GroupID(1); group <= 3; group++ {
		b.Add(&wire.Message{Kind: wire.Heartbeat, Group: group, From: 1, To: 2, Term: 4, Commit: 9})
	}
	b.Add(&wire.Message{Kind: wire.AppendResponse, Group: 7, From: 1, To: 2, Term: 2, Index: 30})

	err := b.Flush(func(lane wire.Lane, payload []byte) error {
		fmt.Println(lane, "payload of", len(payload), "bytes")
		var r batch.Reader
		r.Reset(payload)
		for {
			var m wire.Message
			ok, err := r.Next(&m)
			if !ok {
				return err
			}
			fmt.Println(m.Kind, "of group", m.Group)
		}
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// urgent payload of 88 bytes
	// AppendResponse of group 7
	// Heartbeat of group 1
	// Heartbeat of group 2
	// Heartbeat of group 3
}
