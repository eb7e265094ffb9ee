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
	eventCall                         // something rare
)

var eventNames = [...]string{
	eventStep: "step", eventTick: "tick", eventDeliver: "deliver", eventDown: "down", eventClient: "client", eventCall: "call",
}

func (k eventKind) String() string { return eventNames[k] }

// event is something that will happen. Which fields count depends on the kind.
// There are millions of them in a run, so it is small and holds no pointer: what
// is larger stands in the agenda's stores.
type event struct {
	at    time.Duration
	order uint64 // of scheduling; breaks ties, so that the heap has one order
	life  uint32 // of the site: an event of an earlier life does nothing; of a client: which of its waits this ends
	arg   int32  // part, peer, client, or place of the frame or call
	site  int16  // whom it is about
	kind  eventKind
}

// before says whether e comes before other.
func (e *event) before(other *event) bool {
	return e.at < other.at || e.at == other.at && e.order < other.order
}

// agenda is a heap of events, the earliest first. Each has four children, which
// makes it half as deep as with two.
type agenda struct {
	heap   []event
	order  uint64
	frames stock[frame]
	calls  stock[func()]
}

const heapWidth = 4

// add puts an event on the agenda, behind those of the same time.
func (a *agenda) add(e event) {
	a.order++
	e.order = a.order
	a.heap = append(a.heap, e)
	i := len(a.heap) - 1
	for i > 0 {
		parent := (i - 1) / heapWidth
		if a.heap[parent].before(&e) {
			break
		}
		a.heap[i] = a.heap[parent]
		i = parent
	}
	a.heap[i] = e
}

// next takes the earliest event off the agenda.
func (a *agenda) next() (e event, ok bool) {
	last := len(a.heap) - 1
	if last < 0 {
		return event{}, false
	}
	e = a.heap[0]
	moved := a.heap[last]
	heap := a.heap[:last]
	a.heap = heap
	if last == 0 {
		return e, true
	}
	i := 0
	for {
		first := heapWidth*i + 1
		if first >= last {
			break
		}
		least := first
		for child := first + 1; child < min(first+heapWidth, last); child++ {
			if heap[child].before(&heap[least]) {
				least = child
			}
		}
		if moved.before(&heap[least]) {
			break
		}
		heap[i] = heap[least]
		i = least
	}
	heap[i] = moved
	return e, true
}

// stock keeps things by number. Numbers of things that were taken are used
// again.
type stock[T any] struct {
	items []T
	free  []int32
}

// put stores an item and returns its number.
func (s *stock[T]) put(item T) int32 {
	if n := len(s.free); n > 0 {
		at := s.free[n-1]
		s.free = s.free[:n-1]
		s.items[at] = item
		return at
	}
	s.items = append(s.items, item)
	return int32(len(s.items) - 1)
}

// take returns an item and forgets it.
func (s *stock[T]) take(at int32) T {
	var none T
	item := s.items[at]
	s.items[at] = none
	s.free = append(s.free, at)
	return item
}
