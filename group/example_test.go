package group_test

import (
	"fmt"
	"math/rand/v2"

	"multiraft/group"
	"multiraft/wire"
)

// log is the least that a replica needs of a log. One that is worth its name is
// in package raftlog.
type log struct {
	hard   wire.HardState
	blocks []wire.Block // contiguous from entry 1 on
}

func (l *log) HardState() wire.HardState { return l.hard }
func (l *log) First() wire.Index         { return 1 }

func (l *log) Last() wire.Index {
	if len(l.blocks) == 0 {
		return 0
	}
	return l.blocks[len(l.blocks)-1].Last()
}

func (l *log) Term(i wire.Index) (wire.Term, error) {
	for _, b := range l.blocks {
		if b.First() <= i && i <= b.Last() {
			return b.Term(), nil
		}
	}
	if i == 0 {
		return 0, nil
	}
	return 0, wire.ErrUnavailable
}

func (l *log) Blocks(lo, hi wire.Index, _ int, dst []byte) ([]byte, error) {
	var arena wire.Arena
	for _, b := range l.blocks {
		if from, to := max(lo, b.First()), min(hi, b.Last()+1); from < to {
			return append(dst, b.Cut(from, to, &arena)...), nil
		}
	}
	return nil, wire.ErrUnavailable
}

// Three replicas are driven by hand: what a Ready asks for is done at once.
func Example() {
	members := &wire.Membership{Members: []wire.Member{
		{Replica: 1, Store: 1, Role: wire.Voter},
		{Replica: 2, Store: 2, Role: wire.Voter},
		{Replica: 3, Store: 3, Role: wire.Voter},
	}}
	groups := map[wire.ReplicaID]*group.Group{}
	logs := map[wire.ReplicaID]*log{}
	for id := wire.ReplicaID(1); id <= 3; id++ {
		logs[id] = new(log)
		g, err := group.New(group.Config{
			Group: 7, Replica: id, Members: members, Storage: logs[id],
			Rand: rand.New(rand.NewPCG(1, uint64(id))),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		groups[id] = g
	}

	// run does what the replicas ask for until they ask for nothing more.
	run := func() {
		for busy := true; busy; {
			busy = false
			for id := wire.ReplicaID(1); id <= 3; id++ {
				g, rd := groups[id], new(group.Ready)
				if !g.Ready(rd) {
					continue
				}
				busy = true
				// Messages in a Ready may leave before its entries are durable.
				for i := range rd.Messages {
					m := &rd.Messages[i]
					if err := groups[m.To].Step(m); err != nil {
						fmt.Println(err)
					}
				}
				if rd.Seq != 0 {
					logs[id].hard = rd.HardState
					logs[id].blocks = append(logs[id].blocks, rd.Blocks...) // here nothing is ever truncated
					g.Persisted(rd.Ack())
				}
				for _, b := range rd.Committed {
					apply(id, b)
				}
				g.Applied(rd.CommittedLast)
			}
		}
	}

	if err := groups[1].Campaign(); err != nil {
		fmt.Println(err)
	}
	run()
	fmt.Printf("replica 1 is %s of term %d\n", groups[1].Role(), groups[1].Term())

	block := wire.NewBlock(nil)
	block = wire.AppendPayload(block, []byte("set x"))
	block = wire.AppendPayload(block, []byte("set y"))
	first, term, err := groups[1].Propose(block, 2)
	fmt.Println("proposed at", first, "in term", term, err)
	run()

	for _, g := range groups {
		g.Tick(1) // followers are told of the commit
	}
	run()
	// Output:
	// replica 1 is leader of term 1
	// proposed at 2 in term 1 <nil>
	// replica 1 applies 2: set x
	// replica 1 applies 3: set y
	// replica 2 applies 2: set x
	// replica 2 applies 3: set y
	// replica 3 applies 2: set x
	// replica 3 applies 3: set y
}

// apply prints the commands of a committed block.
func apply(id wire.ReplicaID, b wire.Block) {
	if b.Kind() != wire.EntryCommand {
		return
	}
	index := b.First()
	for payloads := b.Payloads(); ; index++ {
		command, rest, ok := wire.NextPayload(payloads)
		if !ok {
			return
		}
		fmt.Printf("replica %d applies %d: %s\n", id, index, command)
		payloads = rest
	}
}
