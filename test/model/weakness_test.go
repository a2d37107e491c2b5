package model

// weakness is what is left out of the rules. Each has a mutant that is found out.
type weakness struct {
	// The fence.
	noFence        bool // a worker dispatches without contact and permit
	fenceFromReply bool // contact counts from when the acknowledgement arrived

	// Leases and incarnations.
	readoptCondemned      bool // a condemned incarnation is re-adopted
	readoptNeedsAbsence   bool // re-adoption is refused, and final, while the member key is there
	readoptLeavesRevision bool // re-adoption does not put incarnations/w
	keepTheOthers         bool // sessions are kept under the next incarnation
	registerBlindly       bool // a late registration is carried out
	revokeWhileServing    bool // a worker leaves before it stops
	forgetTheRunning      bool // the operator has a worker forgotten that runs
	collectInTwo          bool // condemned/w/E is collected before incarnations/w
	collectSoon           bool // as soon as it is dead

	// Reclaim.
	aliveOwnersLose    bool // the owner need not be dead
	takeWithoutPower   bool // contact is enough
	answerNeedsNoPower bool // power is enough when the reclaim is sent
	readNeedsNoPower   bool // a worker that reads that it is the owner believes it
	condemnedLater     bool // the incarnation is not condemned in the same transaction
	noCompare          bool // the record may have changed since it was read
	neverReads         bool // a worker does not believe what it reads

	// Who may take.
	anybodyTakes     bool // the list does not matter
	onlyListedTake   bool // nothing else does
	peerIsOverAtOnce bool // a permit that a superseded worker gave is not waited for
	collectedIsOver  bool // a collected worker counts as one that cannot answer
	countOverReturns bool // for how long an owner is dead counts on when it was back
	impatient        bool // an owner that is dead is given no time to serve on

	// Permits.
	contactNow             bool // asked is only whether there is contact now
	ignoreAge              bool // and not since when there is no power
	ignoreEarliest         bool // and not when there can be power
	ageOverOutage          bool // the age of power is exact, however long ago
	unreachableConfirms    bool // who does not answer does not object
	anyIncarnationConfirms bool // another incarnation answers for the listed one
	majorityConfirms       bool // a majority is enough
	unrecordedListConfirms bool // the list need not be recorded
	permitFromAnswer       bool // a permit counts from the last answer
	serveForever           bool // S_max does not end permits
	growthKeepsPermit      bool // a newcomer does not end a permit
	aloneKeepsPermit       bool // recording an empty list does not
	recordedFirst          bool // a newcomer is recorded before it is asked
	shrinkFirst            bool // who is dead leaves the list before the record
	lateLists              bool // a list is recorded after one that was sent later
	condemnedRecords       bool // a condemned incarnation may still record

	// Hand-over.
	serveWhileMoving bool // the giver dispatches until it is answered
	saveBlindly      bool // a save does not compare what it replaces
	resumeByReading  bool // an unknown outcome is decided by a read
	believeGrants    bool // the receiver believes a grant of any epoch

	// Beginning and end.
	endDeletes     bool // an end leaves no tombstone
	noTombstone    bool // nor does a 404
	serveUnclaimed bool // an unrecorded session is served whatever has been
	forgetClaims   bool // also if it was claimed under another incarnation

	// The hold.
	noHold              bool // replicas take from the first moment on
	otherReplicaVouches bool // nor if another replica, as it seems, was there all the time
	heldCondemns        bool // a replica that holds condemns
}
