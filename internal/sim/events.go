package sim

import "time"

// eventKind says what an event does when its time has come.
type eventKind uint8

const (
	eventStep    eventKind = iota + 1 // part of a store takes a step
	eventTick                         // a store's logical time advances
	eventDeliver                      // a frame arrives
	eventDown                         // a store learns that a peer is gone
	eventClient                       // a client does what is next
	eventCall                         // something rare: call
)

var eventNames = [...]string{
	eventStep: "step", eventTick: "tick", eventDeliver: "deliver", eventDown: "down", eventClient: "client", eventCall: "call",
}

func (k eventKind) String() string { return eventNames[k] }

// event is something that will happen. Which fields count depends on the kind.
type event struct {
	at    time.Duration
	order uint64 // of scheduling; breaks ties, so that the heap has one order
	kind  eventKind
	site  int    // whom it is about, and which life of it
	life  uint32 // an event of an earlier life does nothing
	arg   int    // part, peer or client
	turn  uint64 // of a client: which of its waits this ends
	frame *frame
	call  func()
}

// agenda is a heap of events, the earliest first.
type agenda struct {
	heap  []event
	order uint64
}

func (a *agenda) before(i, j int) bool {
	x, y := &a.heap[i], &a.heap[j]
	return x.at < y.at || x.at == y.at && x.order < y.order
}

// add puts an event on the agenda, behind those of the same time.
func (a *agenda) add(e event) {
	a.order++
	e.order = a.order
	a.heap = append(a.heap, e)
	for i := len(a.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !a.before(i, parent) {
			break
		}
		a.heap[i], a.heap[parent] = a.heap[parent], a.heap[i]
		i = parent
	}
}

// next takes the earliest event off the agenda.
func (a *agenda) next() (e event, ok bool) {
	last := len(a.heap) - 1
	if last < 0 {
		return event{}, false
	}
	e = a.heap[0]
	a.heap[0] = a.heap[last]
	a.heap[last] = event{}
	a.heap = a.heap[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if a.before(child, least) {
				least = child
			}
		}
		if least == i {
			return e, true
		}
		a.heap[i], a.heap[least] = a.heap[least], a.heap[i]
		i = least
	}
}
