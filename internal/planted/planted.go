package planted

// Bug is one of the bugs that can be planted.
type Bug uint8

// The bugs. The lists in planted_on.go say what each is, and who must find it.
const (
	None Bug = iota

	// Of the core.
	VoteTwice
	VoteUnsynced
	VoteForAnyLog
	NoTermCheck
	PreVoteAdopts
	CommitOldTerm
	CommitMinority
	CommitBeyondMatch
	CountUnsynced
	NoPreviousCheck
	HintAsMatch
	TruncateMatching
	ReadWithoutRound
	IgnoreOutgoing
	ReuseReplica
	LeaseWithoutMargin
	LeaseFromAnswer
	LeaseWithoutPromise
	LeaseForgottenAtStart
	LeaseOverTransfer
	LeaseBeforeOwnEntry
	LeaseFromTheSilent
	LeaseBySelf
	CampaignWounded

	// Of the engine.
	AckEarly
	ForgetHardState
	ApplyTwice
	ApplySkips
	LostIsDropped
	ReadBeforeApplied
	StaleContext
	StaleTombstone
	StaleSnapshot
	CompactAll
	LostWake
	LetOldCopyIn
	ForgetOutlived
	KeepLostID
	StayLearner
	LeadOnHungDisk
	SpeakNewerKinds
	KeepDiverged

	// Of the log.
	SkipSync
	RetrySync
	SkipDirSync
	TrustTorn
	DropLastBatch
	RecycleLive
	ServeUnchecked
	GoOnDamaged
	CutProven

	// Of snapshots.
	RestoreUnchecked
)
