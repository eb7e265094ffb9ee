//go:build planted

package planted

import (
	"fmt"
	"slices"
	"sync/atomic"
)

// active is the bug that is planted.
var active atomic.Uint32

// Is says whether the bug is planted.
func Is(b Bug) bool { return active.Load() == uint32(b) }

// Plant plants the bug of that name in place of the one before. No name, no bug.
func Plant(name string) error {
	if name == "" {
		active.Store(uint32(None))
		return nil
	}
	at := slices.IndexFunc(list, func(i Info) bool { return i.Name == name })
	if at < 0 {
		return fmt.Errorf("no bug is called %q; there are %v", name, Names())
	}
	active.Store(uint32(list[at].Bug))
	return nil
}

// Planted returns the name of the bug that is planted, empty for none.
func Planted() string {
	for _, i := range list {
		if Is(i.Bug) {
			return i.Name
		}
	}
	return ""
}

// Info says what a bug is.
type Info struct {
	Bug  Bug
	Name string
	What string
}

// List returns all bugs.
func List() []Info { return slices.Clone(list) }

// Names returns the names of all bugs.
func Names() (names []string) {
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

var list = []Info{
	{VoteTwice, "vote-twice", "a replica votes for everybody who asks in its term"},
	{VoteUnsynced, "vote-unsynced", "a vote leaves before it is durable"},
	{VoteForAnyLog, "vote-for-any-log", "a vote does not ask whether the candidate's log is as good"},
	{NoTermCheck, "no-term-check", "messages of earlier terms are handled like those of this one"},
	{PreVoteAdopts, "pre-vote-adopts", "the term of a pre-vote is adopted"},
	{CommitOldTerm, "commit-old-term", "entries of earlier terms are committed by counting replicas (thesis, figure 3.7)"},
	{CommitMinority, "commit-minority", "the leader commits what it has itself"},
	{CommitBeyondMatch, "commit-beyond-match", "a heartbeat tells the commit index to a follower whose log may be another one"},
	{CountUnsynced, "count-unsynced", "the leader counts itself for entries that are not on its disk"},
	{NoPreviousCheck, "no-previous-check", "a follower does not compare the entry in front of an append"},
	{HintAsMatch, "hint-as-match", "the leader takes the hint in a refusal for a match"},
	{TruncateMatching, "truncate-matching", "an append replaces what is behind it though it matches"},
	{AckOfOldTerm, "ack-of-old-term", "a leader counts what was acknowledged to leaders before it"},
	{ReadWithoutRound, "read-without-round", "the leader answers reads without asking whether it still leads"},
	{LeaseWithoutMargin, "lease-without-margin", "a lease lasts as long as the promise, by clocks that differ"},
	{LeaseFromAnswer, "lease-from-answer", "a lease counts from the answer to a heartbeat"},
	{LeaseWithoutPromise, "lease-without-promise", "a voter grants votes though its leader may hold a lease"},
	{LeaseForgottenAtStart, "lease-forgotten-at-start", "a voter that starts again owes no silence"},
	{LeaseOverTransfer, "lease-over-transfer", "a leader that has ordered a campaign keeps its lease"},
	{LeaseBeforeOwnEntry, "lease-before-own-entry", "a leader reads by lease before it has committed an entry of its term"},
	{LeaseFromTheSilent, "lease-from-the-silent", "a voter that promises nothing answers as if it did"},
	{LeaseBySelf, "lease-by-self", "a lease lasts as long as the leader would promise, not as long as the voters do"},
	{IgnoreOutgoing, "ignore-outgoing", "a joint configuration decides by its new voters alone"},
	{ReuseReplica, "reuse-replica", "a replica id may be given again"},
	{AckEarly, "ack-early", "answers leave before the batch that makes them true is durable"},
	{ForgetHardState, "forget-hard-state", "term and vote are not written"},
	{ApplyTwice, "apply-twice", "applying from the log begins one entry too early"},
	{ApplySkips, "apply-skips", "applying from the log begins one entry too late"},
	{LostIsDropped, "lost-is-dropped", "clients of a leader that steps down are told that nothing happened"},
	{ReadBeforeApplied, "read-before-applied", "a read does not wait until its index is applied"},
	{StaleContext, "stale-context", "reads are numbered from the start in each life of a store"},
	{StaleTombstone, "stale-tombstone", "a replica that was removed is started again"},
	{StaleSnapshot, "stale-snapshot", "a snapshot is taken for one of a later entry"},
	{CompactAll, "compact-all", "the log is compacted up to what is applied, whatever the snapshot holds"},
	{LostWake, "lost-wake", "the gate opens and wakes nobody"},
	{SkipSync, "skip-sync", "the log is written and not synced"},
	{RetrySync, "retry-sync", "a sync that failed is tried again"},
	{SkipDirSync, "skip-dir-sync", "names of new segments are not synced"},
	{TrustTorn, "trust-torn", "recovery takes a batch whose checksum is wrong"},
	{DropLastBatch, "drop-last-batch", "recovery drops the last batch"},
	{RecycleLive, "recycle-live", "segments are used again though something in them is needed"},
}
