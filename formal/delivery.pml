/*
 * How a letter reaches a keyed actor, and how such actors come and go.
 *
 * `python -m formal.check` runs it; docs/model.md says what is checked and what was found.
 *
 * How to read this if you do not know Promela, the language of the model checker Spin:
 *
 *   proctype P() {...}    the code of a thread; Spin tries every order in which threads take turns
 *   atomic {...}          one step: nobody else takes a turn within. Each one here is what the Python
 *                         code does under one lock, and the comment above it names the Python call.
 *   if :: a -> x          take one of the branches whose first statement can run. If several can,
 *      :: b -> y          Spin tries each of them: this is how chance and choice are written. `else`
 *      :: else -> z fi    is for when no other branch can run.
 *   do :: ... od          the same, again and again, until `break` or `goto`
 *   a condition           as a statement of its own it waits until it is true
 *   (a -> b : c)          b if a, else c
 *   q ! m    q ? m        put m at the end of the channel q; take the first one out into m
 *   inline f(x) {...}     a piece of text with a name; it stands wherever f is called
 *   end_x:                a thread may stay here for ever; anywhere else that is a deadlock
 *
 * Who reads one variable without a lock, while others write it in a step under a lock, sees it as it
 * was before that step or as it is after it. So the step may be atomic here all the same.
 */

/* The size of the world; formal/check.py sets it. */

#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef LETTERS
#define LETTERS 3 /* of each sender */
#endif
#ifndef KEYS
#define KEYS 1 /* 3 at most */
#endif
#ifndef MAX_LIVE
#define MAX_LIVE (2 * KEYS) /* how many incarnations may be live at once, of all keys: no ceiling */
#endif
#ifndef MAX_STARTING
#define MAX_STARTING KEYS /* how many may be starting at once */
#endif
#ifndef FAILURES
#define FAILURES 2 /* how many starts and handlers may fail, in all */
#endif
#ifndef STOPS
#define STOPS 1 /* how many requests to stop there may be, in all */
#endif
#ifndef HANGS
#define HANGS 0 /* how many handlers may never return */
#endif
#ifndef VISITS
#define VISITS 0 /* how often those who look for one to ask may take who sleeps for visited, twice */
#endif
#ifndef ABANDONS
#define ABANDONS 0 /* 1: the registry may give up on key 0, once */
#endif
#ifndef OUTSIDERS
#define OUTSIDERS 0 /* 1: another thread may end an incarnation of key 0, once */
#endif
#ifndef ASKS
#define ASKS 42 /* bit m is 1: letter m is an ask, which may expire; the others are tells */
#endif
#ifndef TARGETS
#define TARGETS 0 /* two bits for each letter: its key */
#endif

/* Letters are numbered: sender s sends s * LETTERS, s * LETTERS + 1, ... in this order. */
#define ALL (SENDERS * LETTERS)
#define IS_ASK(m) ((ASKS >> (m)) & 1)
#define KEY(m) ((TARGETS >> (2 * (m))) & 3)

/*
 * An incarnation is the number of its slot: key k has the slots 2 * k and 2 * k + 1. The second one is
 * for a second live incarnation, which there must never be. A slot is used again when its incarnation
 * has ended; whoever still holds that one then holds GONE, which is closed for ever.
 */
#define SLOTS (2 * KEYS)
#define SLOT(k) (2 * (k))
#define KEY_OF(slot) ((slot) / 2)
#define GONE 254
#define NONE 255

/* The table. Touched under Table._lock, but `published` may be read without it. */

mtype:state = { ABSENT, STARTING, ACTIVE, STOPPING, BACKOFF, QUARANTINED };
mtype:state state[KEYS] = ABSENT;
chan queue[KEYS] = [ALL] of { byte }; /* Entry.queue: letters for the next incarnation */
byte published[KEYS] = NONE;          /* Table.active: what senders find */

/* The places under the ceiling: Admission. A key has one incarnation at most, so a key will do. */

bool waiting[KEYS];  /* in line, STARTING, and not launched yet */
bool starting[KEYS]; /* launched, and not active yet */
bool leaving[KEYS];  /* was asked to make room, or is stopping */
byte live;           /* how many places are taken */

mtype:reason = { NOBODY_ASKED, IDLE, EVICTED };
mtype:reason asked[KEYS] = NOBODY_ASKED; /* Incarnation.asked */

/* The incarnations. The first four are touched under Inbox._lock. */

chan inbox[SLOTS] = [ALL] of { byte };
bool closed[SLOTS] = true;
bool parked[SLOTS]; /* its reader sleeps */
bool nudged[SLOTS]; /* its reader is to look up when there is nothing in it */
bool launched[SLOTS];
byte alive[KEYS]; /* how many are between the first step of their start and Table.ended */

/* What somebody has taken out of an inbox that he has closed; the last two are for strangers. */
#define OUTSIDER SLOTS
#define ABANDONER (SLOTS + 1)
chan left[SLOTS + 2] = [ALL] of { byte };

/* The letters. */

mtype:fate = { UNSENT, PENDING, HANDLED, EXPIRED, REPORTED };
mtype:fate fate[ALL] = UNSENT;

byte held[SENDERS] = NONE; /* the incarnation that a sender has found in `published` */
byte target = NONE;        /* the one that a stranger ends or gives up */
byte failures = FAILURES;
byte stops = STOPS;
byte hangs = HANGS;
byte visits = VISITS;
bool hung[KEYS]; /* the key's handler will never return */

hidden byte x, n, i; /* for use within a step */

/* What must never be. Spin's message names the flag. */

bool lost;              /* at the very end a letter has no fate */
bool two_fates;         /* a letter is handled twice, or handled and expired, or ... */
bool out_of_order;      /* a letter is handled after a later one of the same sender to the same key */
bool double_live;       /* a key has two incarnations */
bool over_ceiling;      /* there are more than MAX_LIVE */
bool active_but_closed; /* a key is ACTIVE and its inbox is closed */

inline violated(flag) {
  flag = true;
  assert(!flag)
}

/*
 * What must be possible. With -DREACH=EXPIRY and so on Spin must complain, else the model is so wrong
 * that the things do not happen in it of which it says that they do no harm.
 */
#define ALL_HANDLED 1        /* every letter is handled */
#define TAKEOVER 2           /* a letter that one incarnation leaves over is handled by a later one */
#define EXPIRY 3             /* an expired letter is skipped */
#define REFUSED 4            /* a sender puts into an inbox that has been closed since he found it */
#define LATE_PUT 5           /* a sender puts into one that is not published any more, but open */
#define DECLINE 6            /* an incarnation wants to retire, and has got a letter meanwhile */
#define SUCCESSOR 7          /* one that retires has a successor at once */
#define RANG 8               /* a key has an incarnation again after a rest */
#define TELL_STAYED 9        /* a tell that has waited for a failing start is handled later */
#define QUARANTINE 10        /* the budget of failures is used up with letters in the queue */
#define EVICTION 11          /* an incarnation makes room for another key */
#define ASKED_BUT_BUSY 12    /* one that was asked to make room has got a letter meanwhile */
#define GIVEN_UP 13          /* letters in the inbox of an abandoned incarnation are reported */
#define NEVER_MIND 14        /* a thread that was launched finds that it is not due any more */
#define UNWANTED 15          /* a key that waits for its turn is dropped, for all asks have expired */
#define TOO_LATE 16          /* a stranger's left-overs come when the incarnation has ended */
#define NEEDLESS_EVICTION 17 /* an incarnation makes room, and nobody wants it */
#define STOPPED_AT_REST 18   /* letters of a key that rests are reported, for it is stopped */

#ifdef REACH
#define REACHED_IF(condition, what) if :: (condition) -> assert(REACH != what) :: else fi
#define MARK(m, what) marked[m] = (REACH == what -> true : marked[m])
bool marked[ALL];
#else
#define REACHED_IF(condition, what) skip
#define MARK(m, what) skip
#endif

#if KEYS == 1
#define SUM(a) (a[0])
#elif KEYS == 2
#define SUM(a) (a[0] + a[1])
#else
#define SUM(a) (a[0] + a[1] + a[2])
#endif

inline wake(slot) { parked[slot] = false }

inline drop_all(channel) {
  do
  :: len(channel) > 0 -> channel ? x
  :: else -> break
  od
}

/* Table._report, for one letter. An asker who has given up does not care. */
inline report(m) {
  if
  :: fate[m] == PENDING -> fate[m] = REPORTED
  :: fate[m] == EXPIRED
  :: else -> violated(two_fates)
  fi
}

inline report_all(channel) {
  do
  :: len(channel) > 0 -> channel ? x; report(x)
  :: else -> break
  od
}

/* Table._skip: forget letters at the front that nobody waits for. */
inline skip_expired(k) {
  do
  :: queue[k] ? [x] ->
     queue[k] ? <x>;
     if
     :: fate[x] == EXPIRED -> queue[k] ? x
     :: else -> break
     fi
  :: else -> break
  od
}

/*
 * Admission: who may start, and who has to go.
 */

/* Admission._wanted: how many places are needed that are not about to come free. */
#define STARTABLE \
  (SUM(waiting) < MAX_STARTING - SUM(starting) -> SUM(waiting) : MAX_STARTING - SUM(starting))
#define WANTED (live >= MAX_LIVE -> STARTABLE - SUM(leaving) : 0)

/* Admission.wants_place_of. */
#define WANTS_PLACE_OF(k) (WANTED + leaving[k] > 0)

/* Inbox.nudge. */
inline nudge(slot) {
  nudged[slot] = true;
  wake(slot)
}

/* May be asked to go; and of these, one that sleeps. */
#define MAY_GO(k) (state[k] == ACTIVE && asked[k] == NOBODY_ASKED)
#define SLEEPS(k) (MAY_GO(k) && parked[published[k]])
#if KEYS == 1
#define ANY_SLEEPS SLEEPS(0)
#elif KEYS == 2
#define ANY_SLEEPS (SLEEPS(0) || SLEEPS(1))
#else
#define ANY_SLEEPS (SLEEPS(0) || SLEEPS(1) || SLEEPS(2))
#endif

inline evict(k) {
  asked[k] = EVICTED;
  leaving[k] = true;
  nudge(published[k])
}

/* Inbox.is_cold, of one that is not cold: let it look for itself when it has nothing to do. */
inline nudge_if_busy(k) {
#ifndef NO_BUSY_NUDGE
  if
  :: MAY_GO(k) -> nudge(published[k])
  :: else
  fi
#else
  skip
#endif
}

/* The same, of one that may sleep now, but was visited since the look before. */
inline nudge_visited(k) {
#ifndef NO_VISITED_NUDGE
  nudge_if_busy(k)
#else
  if
  :: SLEEPS(k)
  :: else -> nudge_if_busy(k)
  fi
#endif
}

/*
 * Admission._relieve: ask as many to go as places are wanted. Which ones is left open, for it is a
 * matter of speed only. One that does not sleep may be among them: a letter may have come since the
 * look whether it does. Sieve.choose looks at each of them twice, and inboxes are not under the
 * table's lock: who sleeps both times, but was visited before each, is not asked. The first look has
 * nudged it, and since then it was awake: it comes to see that it is to go, as if nudged now.
 */
inline relieve() {
  do
  :: WANTED <= 0 -> break
#if VISITS
  :: WANTED > 0 && visits > 0 -> visits--; nudge_visited(0);
#if KEYS > 1
     nudge_visited(1);
#endif
#if KEYS > 2
     nudge_visited(2);
#endif
     break
#endif
  :: WANTED > 0 && MAY_GO(0) -> evict(0)
#if KEYS == 1
  :: WANTED > 0 && !ANY_SLEEPS -> nudge_if_busy(0); break
#elif KEYS == 2
  :: WANTED > 0 && MAY_GO(1) -> evict(1)
  :: WANTED > 0 && !ANY_SLEEPS -> nudge_if_busy(0); nudge_if_busy(1); break
#else
  :: WANTED > 0 && MAY_GO(1) -> evict(1)
  :: WANTED > 0 && MAY_GO(2) -> evict(2)
  :: WANTED > 0 && !ANY_SLEEPS ->
     nudge_if_busy(0); nudge_if_busy(1); nudge_if_busy(2); break
#endif
  od
}

/* Table.launch. The new thread takes its first step some time after this one, which is as good as
   launching it after the lock was released. */
inline launch(k) {
  waiting[k] = false;
  starting[k] = true;
  live++;
  if
  :: !launched[SLOT(k)] -> launched[SLOT(k)] = true; closed[SLOT(k)] = false
  :: else -> launched[SLOT(k) + 1] = true; closed[SLOT(k) + 1] = false
  fi
}

/* Table._admit and Admission.admit: give those in line the places that there are. Who comes first
   is left open, so any line will do. */
#define PLACE (live < MAX_LIVE && SUM(starting) < MAX_STARTING)

inline admit() {
  do
  :: PLACE && waiting[0] -> launch(0)
#if KEYS > 1
  :: PLACE && waiting[1] -> launch(1)
#endif
#if KEYS > 2
  :: PLACE && waiting[2] -> launch(2)
#endif
  :: else -> break
  od;
  relieve()
}

/* Admission.stay: one that was asked to go does not. */
inline stay(k) {
  leaving[k] = false;
#ifndef NO_RELIEF
  relieve()
#endif
}

/* Table._begin: the next incarnation is due, after a rest if there was a failure lately. How long
   is left open. */
inline begin(k) {
  if
  :: state[k] = STARTING; waiting[k] = true; admit()
  :: failures < FAILURES -> state[k] = BACKOFF
  fi
}

/* Give back the place of one that was launched. Its thread, when it comes, finds that it is not due
   and does nothing: Table._never_mind. */
inline withdraw(k) {
#ifdef NO_DUE_LOOK
  skip
#else
  launched[SLOT(k)] = false;
  closed[SLOT(k)] = true;
  starting[k] = false;
  live--
#endif
}

/* Table._drop_if_unwanted: nobody waits any more for a key whose incarnation has not begun. */
inline drop_if_unwanted(k) {
  if
  :: (state[k] == STARTING && alive[k] == 0) || state[k] == BACKOFF ->
     skip_expired(k);
     if
     :: len(queue[k]) == 0 ->
        REACHED_IF(true, UNWANTED);
        if
        :: launched[SLOT(k)] -> withdraw(k)
        :: else -> waiting[k] = false
        fi;
        state[k] = ABSENT;
        admit()
     :: else
     fi
  :: else
  fi
}

/*
 * A sender's thread.
 */
proctype Sender(byte s) {
  byte m = s * LETTERS;
  do
  :: m == (s + 1) * LETTERS -> break
  :: else ->

     /* Table.deliver, without the lock: who is active? */
     atomic {
       fate[m] = PENDING;
       held[s] = published[KEY(m)];
       if
       :: held[s] == NONE -> goto under_the_lock
       :: else
       fi
     }

     /* Inbox.accept: take the letter in and wake the reader, or say no. */
     atomic {
       if
#ifdef NO_CLOSED_LOOK
       :: held[s] == GONE -> held[s] = NONE; m++; goto sent
       :: held[s] != GONE ->
#else
       :: held[s] != GONE && !closed[held[s]] ->
#endif
          REACHED_IF(published[KEY(m)] != held[s], LATE_PUT);
          inbox[held[s]] ! m;
          wake(held[s]);
          held[s] = NONE;
          m++;
          goto sent
       :: else ->
          REACHED_IF(true, REFUSED);
          held[s] = NONE
       fi
     }

under_the_lock:
     /* Table._deliver. */
     atomic {
       if
#ifdef NO_WAIT_FOR_ENDED
       :: state[KEY(m)] == ABSENT || state[KEY(m)] == STOPPING ->
#else
       :: state[KEY(m)] == ABSENT ->
#endif
          queue[KEY(m)] ! m;
          begin(KEY(m))
       :: state[KEY(m)] == STARTING || state[KEY(m)] == STOPPING || state[KEY(m)] == BACKOFF ->
          queue[KEY(m)] ! m
       :: state[KEY(m)] == ACTIVE ->
          if
          :: closed[published[KEY(m)]] -> violated(active_but_closed)
          :: else
          fi;
          inbox[published[KEY(m)]] ! m;
          wake(published[KEY(m)])
       :: state[KEY(m)] == QUARANTINED ->
          report(m)
       fi;
       m++
     }
sent:
     skip
  od
}

/*
 * The end of an incarnation that fails, or is asked to stop.
 */

/* Table._stopping: senders find it no more. */
inline stopping(k) {
  if
  :: state[k] == ACTIVE ->
     state[k] = STOPPING;
     published[k] = NONE;
     leaving[k] = true;
     asked[k] = NOBODY_ASKED /* as good as the Python code, where nobody looks at it any more */
  :: else
  fi
}

/* Inbox.close: refuse letters from now on, and take out what is left over. */
inline close(slot, by) {
  closed[slot] = true;
  nudged[slot] = false; /* its reader looks up from a closed inbox anyway */
  wake(slot);
  do
  :: len(inbox[slot]) > 0 ->
     inbox[slot] ? x;
     if
     :: fate[x] == EXPIRED
     :: else -> left[by] ! x
     fi
  :: else -> break
  od
}

/* In Table._close_inbox: keep what was left over for the successor, before all that came later. */
inline requeue(k, by, is_its_entry) {
  n = len(queue[k]);
  do
  :: len(left[by]) > 0 ->
     left[by] ? x;
     if
#ifdef NO_REQUEUE
     :: true
#elif defined(NO_OWNER_LOOK)
     :: true -> queue[k] ! x
#else
     :: is_its_entry && state[k] == STOPPING -> MARK(x, TAKEOVER); queue[k] ! x
     :: else -> REACHED_IF(state[k] == QUARANTINED, GIVEN_UP); report(x)
#endif
     fi
  :: else -> break
  od;
#ifndef NO_FRONT
  do /* the n letters that were there go behind them */
  :: n > 0 -> queue[k] ? x; queue[k] ! x; n--
  :: else -> break
  od
#endif
}

/*
 * Table._close_inbox, all under the table's lock. Who has found the inbox before needs only that
 * one's lock, so in Python he may come in between. If he does before it closes, this is as good as
 * before the step, for he looks at nothing else; if he is refused it is as good as after the step,
 * for he then needs the table's lock.
 */
inline close_inbox(k, slot, by) {
  stopping(k);
  close(slot, by);
  requeue(k, by, true)
}

/*
 * The thread of an incarnation, then that of the next one in the same slot, and so on: Life.
 */
#define k KEY_OF(me)

proctype Incarnation(byte me) {
  byte m;
  bool failed;

end_no_incarnation:
  /* Table._begin_life. */
  atomic {
    launched[me];
#ifndef NO_DUE_LOOK
    if
    :: state[k] == STARTING
    :: else -> /* Table._never_mind: it was abandoned before it has begun */
       REACHED_IF(true, NEVER_MIND);
       withdraw(k);
       if
       :: target == me -> target = GONE
       :: else
       fi;
       state[k] = ABSENT;
       admit();
       goto end_no_incarnation
    fi;
#endif
    alive[k]++;
    if
    :: alive[k] > 1 -> violated(double_live)
    :: SUM(alive) > MAX_LIVE -> violated(over_ceiling)
    :: else
    fi
  }

  /* The constructor and on_start. Nobody has found it before this, so its inbox is empty. */
  atomic {
    if
    :: true
    :: failures > 0 -> failures--; failed = true; goto ended
    fi
  }

#ifdef NO_MOVE_FIRST
  atomic {
    if
    :: state[k] == STARTING -> state[k] = ACTIVE; published[k] = me
    :: else
    fi
  }
#endif

  /* Table._activated: it gets the letters that have waited, and then may be found. */
  atomic {
#ifndef NO_MOVE_FIRST
    if
    :: state[k] == STARTING
    :: else -> failed = true; goto ended /* it was abandoned */
    fi;
#endif
    do
    :: len(queue[k]) > 0 -> queue[k] ? x; inbox[me] ! x
    :: else -> break
    od;
    state[k] = ACTIVE;
    published[k] = me;
    starting[k] = false;
    admit();
#ifndef NO_SELF_NUDGE
    if
    :: WANTS_PLACE_OF(k) -> nudge(me)
    :: else
    fi
#endif
  }

serve:
  if

  /* Inbox.get: take the first letter. */
  :: atomic {
       len(inbox[me]) > 0 -> inbox[me] ? m
#if MAX_LIVE >= KEYS
       ; asked[k] = NOBODY_ASKED /* Table.decline; where there is no ceiling nobody else cares */
#endif
     }

  /* Inbox.get: there is none, and the reader is to look up. */
#ifdef NO_NUDGED_LOOK
  :: atomic { len(inbox[me]) == 0 && closed[me] -> nudged[me] = false; goto rest }
#else
  :: atomic { len(inbox[me]) == 0 && (nudged[me] || closed[me]) -> nudged[me] = false; goto rest }
#endif

  /* Inbox.get: there is none, so sleep. */
#ifdef NO_NUDGED_LOOK
  :: atomic { len(inbox[me]) == 0 && !closed[me] -> parked[me] = true; goto end_parked }
#else
  :: atomic {
       len(inbox[me]) == 0 && !closed[me] && !nudged[me] -> parked[me] = true; goto end_parked
     }
#endif

  /* A request to stop, with letters behind it or not. */
  :: atomic { stops > 0 -> stops--; goto finish }
  fi;

#if MAX_LIVE < KEYS && !defined(NO_DECLINE)
  /* Table.decline: it was asked to go, and has got something to do. */
  atomic {
    if
    :: asked[k] != NOBODY_ASKED ->
       REACHED_IF(asked[k] == EVICTED, ASKED_BUT_BUSY);
       asked[k] = NOBODY_ASKED;
       if
       :: state[k] == ACTIVE -> stay(k)
       :: else
       fi
    :: else
    fi
  }
#endif

#ifdef NO_ATOMIC_BEGIN
  atomic {
    if
    :: fate[m] == EXPIRED -> m = 0; goto serve
    :: else
    fi
  }
#endif

  /* Future.begin, and the handler. */
  atomic {
    if
#ifndef NO_ATOMIC_BEGIN
    :: fate[m] == EXPIRED -> REACHED_IF(true, EXPIRY); m = 0; goto serve
#endif
    :: fate[m] == PENDING -> fate[m] = HANDLED
    :: else -> violated(two_fates)
    fi;
    REACHED_IF(marked[m], REACH);
    i = m + 1;
    do /* was a later one of the same sender to the same key handled before? */
    :: i % LETTERS > 0 ->
       if
       :: KEY(i) == KEY(m) && fate[i] == HANDLED -> violated(out_of_order)
       :: else
       fi;
       i++
    :: else -> break
    od;
    m = 0;
    if
    :: goto serve
    :: failures > 0 -> failures--; failed = true; goto finish /* it has raised */
    :: hangs > 0 -> hangs--; hung[k] = true; goto end_hung
    fi
  }

end_hung:
  false;

end_parked:
  !parked[me];
#ifdef NO_NUDGED_LOOK
  atomic {
    if
    :: len(inbox[me]) == 0 && nudged[me] -> nudged[me] = false; goto rest
    :: else
    fi
  }
#endif
  goto serve;

rest:
  /* Table._rest, and in it Inbox.close_if_empty: retire if that is wanted and nothing is to do. */
  atomic {
    if
    :: state[k] != ACTIVE && closed[me] -> goto finish
    :: state[k] != ACTIVE && !closed[me] -> goto serve
    :: state[k] == ACTIVE && !WANTS_PLACE_OF(k) && asked[k] != IDLE ->
       asked[k] = NOBODY_ASKED;
       stay(k);
       goto serve
    :: state[k] == ACTIVE && (WANTS_PLACE_OF(k) || asked[k] == IDLE) ->
       if
       :: len(inbox[me]) > 0 ->
          REACHED_IF(true, DECLINE);
          asked[k] = NOBODY_ASKED;
#ifndef NO_RENEWAL
          nudge(me);
#endif
          stay(k);
          goto serve
       :: else ->
          REACHED_IF(WANTS_PLACE_OF(k), EVICTION);
          REACHED_IF(WANTS_PLACE_OF(k) && SUM(waiting) == 0, NEEDLESS_EVICTION)
       fi
    fi;
    asked[k] = NOBODY_ASKED;
#ifdef NO_ATOMIC_REST
  }
  atomic {
    drop_all(inbox[me]);
#endif
    closed[me] = true;
    nudged[me] = false;
    stopping(k);
    goto on_stop
  }

finish:
  /* Life.end and Table._close_inbox, before the stop flag is set. */
#ifdef NO_STOPPING_FIRST
  atomic { close(me, me) }
  atomic { stopping(k); requeue(k, me, true) }
#elif defined(THREE_STEPS)
  atomic { stopping(k) }
  atomic { close(me, me) }
  atomic { requeue(k, me, true) }
#else
  atomic { close_inbox(k, me, me) }
#endif

on_stop:
  skip;

ended:
  /* Table._ended and Table._hand_over: the last thing. */
  atomic {
    alive[k]--;
    live--;
    leaving[k] = false;

    /* The slot is as good as new; see SLOTS. */
    launched[me] = false;
    closed[me] = true;
    nudged[me] = false;
    drop_all(inbox[me]);
    for (i : 0 .. SENDERS - 1) {
      if
      :: held[i] == me -> held[i] = GONE
      :: else
      fi
    }
    if
    :: target == me -> target = GONE
    :: else
    fi;
    asked[k] = NOBODY_ASKED;

#ifdef NO_WAIT_FOR_ENDED
    if
    :: launched[SLOT(k)] || launched[SLOT(k) + 1] -> failed = false; goto end_no_incarnation
    :: else
    fi;
#endif
    starting[k] = false;

    /* Table._fail_start: asks are told, tells stay. */
    n = (state[k] == STARTING -> len(queue[k]) : 0);
    do
    :: n > 0 ->
       queue[k] ? x;
       n--;
       if
       :: IS_ASK(x) -> report(x)
       :: else -> MARK(x, TELL_STAYED); queue[k] ! x
       fi
    :: else -> break
    od;

    if
    :: state[k] == QUARANTINED -> state[k] = ABSENT /* it was abandoned */
    :: state[k] != QUARANTINED && failed -> /* the budget of failures, whatever it is, is used up */
       REACHED_IF(len(queue[k]) > 0, QUARANTINE);
       state[k] = QUARANTINED;
       report_all(queue[k])
    :: state[k] != QUARANTINED -> /* it is not, or this is no failure */
       skip_expired(k);
#ifdef NO_QUEUE_LOOK
       drop_all(queue[k]);
#endif
       if
       :: len(queue[k]) > 0 -> REACHED_IF(!failed, SUCCESSOR); begin(k)
       :: else -> state[k] = ABSENT
       fi
    fi;
    failed = false;
    admit();
    goto end_no_incarnation
  }
}
#undef k

/* Table._rung, of a key that has rested, or was in quarantine, for long enough; Table.release. */
proctype Timer(byte k) {
end_timer:
  do
  :: atomic {
       state[k] == BACKOFF ->
       REACHED_IF(true, RANG);
       state[k] = STARTING;
       waiting[k] = true;
       admit()
     }
  :: atomic {
       state[k] == QUARANTINED && !launched[SLOT(k)] && !launched[SLOT(k) + 1] ->
       state[k] = ABSENT
     }
  /* Table._stop, of a key that rests: what waits is reported, and nothing starts. */
  :: atomic {
       state[k] == BACKOFF && stops > 0 ->
       REACHED_IF(len(queue[k]) > 0, STOPPED_AT_REST);
       stops--;
       report_all(queue[k]);
       state[k] = ABSENT
     }
  od
}

#if HANGS && !defined(NO_TICK)
/* Table.tick and Admission.tick: count no longer on those who have not gone by now, and look again
   whom to ask. Python does so twice a second, come what may. Here it happens only for what the tick
   is there for, else it would hide what somebody has left undone. */
proctype Ticker() {
end_ticker:
  do
  :: atomic {
       SUM(waiting) > 0 && SUM(leaving) > 0 ->
       for (i : 0 .. KEYS - 1) { leaving[i] = false }
       admit()
     }
  od
}
#endif

/*
 * Time passes, until it stands still. It may do so at any moment: else a letter that is stuck would
 * always be freed by an expiry or a retirement, and nobody would notice.
 */
#define MAY_EXPIRE(m) (IS_ASK(m) && fate[m] == PENDING)

proctype Clock() {
  byte m;
  do
  :: atomic {
       m = 0;
       do
       /* Table._expire and Future.withdraw: an asker gives up. */
       :: m < ALL && MAY_EXPIRE(m) ->
#ifndef NO_ATOMIC_BEGIN
          fate[m] = EXPIRED;
          drop_if_unwanted(KEY(m));
#endif
          break
       /* Table._check_idle: nothing has come for long enough. Table.passivate is like it. */
       :: m < KEYS && MAY_GO(m) ->
          asked[m] = IDLE;
          nudge(published[m]);
          goto goes_on
       :: m < ALL -> m++
       :: m == ALL -> goto stands_still
       od
     }
#ifdef NO_ATOMIC_BEGIN
     atomic {
       if
       :: fate[m] == HANDLED -> violated(two_fates)
       :: else -> fate[m] = EXPIRED
       fi
     }
#endif
goes_on:
     m = 0
  od;
stands_still:
  skip
}

#if ABANDONS
/* The registry gives up on key 0. */
proctype Abandoner() {
end_abandoner:
  if
  /* Table._abandon: what its incarnation does takes too long; its thread goes on all the same. */
  :: atomic {
       (state[0] == STARTING && !waiting[0]) || state[0] == ACTIVE || state[0] == STOPPING ->
       target = SLOT(0);
       state[0] = QUARANTINED;
       published[0] = NONE;
       starting[0] = false;
       leaving[0] = false;
       report_all(queue[0]);
       admit()
     }
     /* Life.abandon and in it Life.end, in the thread that gives up. */
#ifdef THREE_STEPS
     atomic {
       if
       :: target != GONE -> close(target, ABANDONER)
       :: else
       fi
     }
     atomic { requeue(0, ABANDONER, target != GONE) }
#else
     atomic {
       if
       :: target != GONE -> close_inbox(0, target, ABANDONER)
       :: else /* it has closed it itself */
       fi
     }
#endif
  /* Table._give_up: it waits in vain for a place. */
  :: atomic {
       waiting[0] ->
       waiting[0] = false;
       report_all(queue[0]);
       state[0] = ABSENT
     }
  fi
}
#endif

#if OUTSIDERS
/* Somebody sets the stop flag of an incarnation of key 0, and so runs Life.end in his thread. */
proctype Outsider() {
end_outsider:
  atomic { published[0] != NONE -> target = published[0] }
#ifdef THREE_STEPS
  atomic {
    if
    :: target != GONE -> stopping(0)
    :: else
    fi
  }
  atomic {
    if
    :: target != GONE -> close(target, OUTSIDER)
    :: else
    fi
  }
  atomic {
    REACHED_IF(target == GONE && len(left[OUTSIDER]) > 0, TOO_LATE);
    requeue(0, OUTSIDER, target != GONE)
  }
#else
  atomic {
    if
    :: target != GONE -> close_inbox(0, target, OUTSIDER)
    :: else /* it has ended by itself */
    fi
  }
#endif
}
#endif

/*
 * When nobody can take a step any more, each key must have come to rest, or this waits for ever,
 * which is a deadlock, and each letter must have its fate.
 */
#define AT_REST(k) (state[k] == ABSENT || state[k] == ACTIVE || state[k] == QUARANTINED || hung[k])

proctype Referee() {
  timeout;
  AT_REST(0);
#if KEYS > 1
  AT_REST(1);
#endif
#if KEYS > 2
  AT_REST(2);
#endif
  atomic {
    n = 0;
    for (i : 0 .. ALL - 1) {
      if
      :: fate[i] == PENDING && !hung[KEY(i)] -> violated(lost)
      :: fate[i] == HANDLED -> n++
      :: else
      fi
    }
    REACHED_IF(n == ALL, ALL_HANDLED)
  }
}

init {
  byte j;
  atomic {
    for (j : 0 .. SENDERS - 1) { run Sender(j) }
    for (j : 0 .. SLOTS - 1) { run Incarnation(j) }
    for (j : 0 .. KEYS - 1) { run Timer(j) }
#if HANGS && !defined(NO_TICK)
    run Ticker();
#endif
    run Clock();
#if ABANDONS
    run Abandoner();
#endif
#if OUTSIDERS
    run Outsider();
#endif
    run Referee();
    j = 0
  }
}
