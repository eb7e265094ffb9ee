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
	// Elsewhere names the test that finds it when the simulator is not for it.
	Elsewhere string
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
	{Bug: VoteTwice, Name: "vote-twice", What: "a replica votes for everybody who asks in its term"},
	{Bug: VoteUnsynced, Name: "vote-unsynced", What: "a vote leaves before it is durable"},
	{Bug: VoteForAnyLog, Name: "vote-for-any-log", What: "a vote does not ask whether the candidate's log is as good"},
	{Bug: NoTermCheck, Name: "no-term-check", What: "messages of earlier terms are handled like those of this one"},
	{Bug: PreVoteAdopts, Name: "pre-vote-adopts", What: "the term of a pre-vote is adopted"},
	{Bug: CommitOldTerm, Name: "commit-old-term", What: "entries of earlier terms are committed by counting replicas (thesis, figure 3.7)"},
	{Bug: CommitMinority, Name: "commit-minority", What: "the leader commits what it has itself"},
	{Bug: CommitBeyondMatch, Name: "commit-beyond-match", What: "a heartbeat tells the commit index to a follower whose log may be another one"},
	{Bug: CountUnsynced, Name: "count-unsynced", What: "the leader counts itself for entries that are not on its disk"},
	{Bug: NoPreviousCheck, Name: "no-previous-check", What: "a follower does not compare the entry in front of an append"},
	{Bug: HintAsMatch, Name: "hint-as-match", What: "the leader takes the hint in a refusal for a match"},
	{Bug: TruncateMatching, Name: "truncate-matching", What: "an append replaces what is behind it though it matches"},
	{Bug: ReadWithoutRound, Name: "read-without-round", What: "the leader answers reads without asking whether it still leads"},
	{Bug: LeaseWithoutMargin, Name: "lease-without-margin", What: "a lease lasts as long as the promise, by clocks that differ"},
	{Bug: LeaseFromAnswer, Name: "lease-from-answer", What: "a lease counts from the answer to a heartbeat"},
	{Bug: LeaseWithoutPromise, Name: "lease-without-promise", What: "a voter grants votes though its leader may hold a lease"},
	{Bug: LeaseForgottenAtStart, Name: "lease-forgotten-at-start", What: "a voter that starts again owes no silence"},
	{Bug: LeaseOverTransfer, Name: "lease-over-transfer", What: "a leader that has ordered a campaign keeps its lease"},
	{Bug: LeaseBeforeOwnEntry, Name: "lease-before-own-entry", What: "a leader reads by lease before it has committed an entry of its term"},
	{Bug: LeaseFromTheSilent, Name: "lease-from-the-silent", What: "a voter that promises nothing answers as if it did"},
	{Bug: LeaseBySelf, Name: "lease-by-self", What: "a lease lasts as long as the leader would promise, not as long as the voters do"},
	{Bug: CampaignWounded, Name: "campaign-wounded", What: "a replica that has lost its entries campaigns"},
	{Bug: IgnoreOutgoing, Name: "ignore-outgoing", What: "a joint configuration decides by its new voters alone"},
	{Bug: ReuseReplica, Name: "reuse-replica", What: "a replica id may be given again"},
	{Bug: AckEarly, Name: "ack-early", What: "answers leave before the batch that makes them true is durable"},
	{Bug: ForgetHardState, Name: "forget-hard-state", What: "term and vote are not written"},
	{Bug: ApplyTwice, Name: "apply-twice", What: "applying from the log begins one entry too early"},
	{Bug: ApplySkips, Name: "apply-skips", What: "applying from the log begins one entry too late"},
	{Bug: LostIsDropped, Name: "lost-is-dropped", What: "clients of a leader that steps down are told that nothing happened"},
	{Bug: ReadBeforeApplied, Name: "read-before-applied", What: "a read does not wait until its index is applied"},
	{Bug: StaleContext, Name: "stale-context", What: "reads are numbered from the start in each life of a store"},
	{Bug: StaleTombstone, Name: "stale-tombstone", What: "a replica that was removed is started again"},
	{Bug: StaleSnapshot, Name: "stale-snapshot", What: "a snapshot is taken for one of a later entry"},
	{Bug: CompactAll, Name: "compact-all", What: "the log is compacted up to what is applied, whatever the snapshot holds"},
	{Bug: LostWake, Name: "lost-wake", What: "the gate opens and wakes nobody"},
	{Bug: KeepDiverged, Name: "keep-diverged", What: "a replica that is told that its state machine has diverged goes on", Elsewhere: "TestPlantedKeepDiverged"},
	{Bug: LetOldCopyIn, Name: "let-old-copy-in", What: "a store with an older copy of its disk passes the lives that its peers have met"},
	{Bug: ForgetOutlived, Name: "forget-outlived", What: "a store with an older copy of its disk forgets with its life that it was told so"},
	{Bug: KeepLostID, Name: "keep-lost-id", What: "a replica that may have lost its promises runs on under its id"},
	{Bug: StayLearner, Name: "stay-learner", What: "the replica that takes the place of a lost voter gets no vote"},
	{Bug: LeadOnHungDisk, Name: "lead-on-hung-disk", What: "leaders lead on though their disk does not answer"},
	{Bug: SpeakNewerKinds, Name: "speak-newer-kinds", What: "messages go to peers that are too old for them"},
	{Bug: SkipSync, Name: "skip-sync", What: "the log is written and not synced"},
	{Bug: RetrySync, Name: "retry-sync", What: "a sync that failed is tried again"},
	{Bug: SkipDirSync, Name: "skip-dir-sync", What: "names of new segments are not synced"},
	{Bug: TrustTorn, Name: "trust-torn", What: "recovery takes a batch whose checksum is wrong"},
	{Bug: DropLastBatch, Name: "drop-last-batch", What: "recovery drops the last batch"},
	{Bug: RecycleLive, Name: "recycle-live", What: "segments are used again though something in them is needed"},
	{Bug: ServeUnchecked, Name: "serve-unchecked", What: "blocks are read back without a look at their checksum"},
	{Bug: GoOnDamaged, Name: "go-on-damaged", What: "a replica goes on without what its damaged log has lost"},
	{Bug: CutProven, Name: "cut-proven", What: "recovery takes damage for a torn tail, wherever it is"},
	{Bug: RestoreUnchecked, Name: "restore-unchecked", What: "chunks of snapshots are used without a look at their checksum"},
}
