package engine

// Pending is a proposal on its way. The caller owns it, gives it to
// [Group.ProposeAsync], and owns it again when its Notifier has been called
// with it. It can be used any number of times, one proposal at a time.
type Pending struct {
	// Tag is the caller's and never read here.
	Tag uint64

	notifier Notifier
	result   Result
	err      error
	bytes    int32 // what it counts for in the budgets; 0 when not in flight
}

// Notifier receives completed proposals in batches.
type Notifier interface {
	// ProposalsDone is called on the applier's goroutine with proposals that
	// completed together, in the order of their entries. It must not block and
	// must not keep the slice.
	ProposalsDone(done []*Pending)
}

// NewPending returns a pending object that reports to n.
func NewPending(n Notifier) *Pending { return &Pending{notifier: n} }

// Init prepares a Pending that was not made by NewPending, such as an element
// of a slice.
func (p *Pending) Init(n Notifier) { *p = Pending{Tag: p.Tag, notifier: n} }

// Result returns what the state machine answered, or why there is no answer.
// It is valid from the notification until the next use.
func (p *Pending) Result() (Result, error) { return p.result, p.err }

// waiter is the pending object of a synchronous proposal, reused with its
// channel.
type waiter struct {
	pending Pending
	done    chan struct{} // holds one signal, so that ProposalsDone never blocks
}

func newWaiter() *waiter {
	w := &waiter{done: make(chan struct{}, 1)}
	w.pending.notifier = w
	return w
}

// ProposalsDone wakes the one goroutine that waits.
func (w *waiter) ProposalsDone([]*Pending) { w.done <- struct{}{} }
