// The engine: what to do next, decided from what is recorded. Pure: no clock, no I/O, no threads, no randomness.
//
// The state is a fold over records. handle(event) answers with records to store, commands to send, and a time to
// wake. The shell stores and syncs the records first and only then sends the commands: intent before the effect,
// outcome after. Starting and recovering are the same: fold the journal, then handle(Started).
//
// An intent without an outcome is resolved by observing, never by repeating blindly; before that every agent that the
// step involves has adopted the new epoch, which ends all that an earlier controller set going. At most one step is
// under way, so no other host can hold work of an earlier epoch: a host that a step does not involve never holds it up.
//
// One answer a call. At most one call is out at any time; the shell owes exactly one Outcome or Observed for it, with
// the call's epoch and number, or a LinkLost for its host. Duplicates, late answers and answers to earlier epochs are
// ignored, so that a shell may deliver them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/plan.h"

namespace midstream {

enum class Direction { forward, back };
enum class Goal {
  idle,    // nothing asked yet
  run,     // forward, up to and without `finish`
  back,    // undo everything that was done
  finish,  // the steps of phase finish, then every host is left; from here only forward
  end,     // every host is left after a whole rollback; recorded where `finish` was asked for then
};
std::string_view to_string(Goal goal);

// clang-format off
// ---- events; every one carries `now`, wall-clock milliseconds -----------------------------------------------
struct Started {};                                // the controller has begun; the journal is folded
struct Adopted {                                  // that agent has adopted this epoch, all earlier commands are over
  std::string host;
  std::uint64_t epoch;
};
struct NotAdopted {                               // it cannot be reached, or answers so; the shell asks it again
  std::string host;
  Error why;
};
struct LinkLost { std::string host; };            // what was called there has no answer any more
struct Asked {                                    // the operator
  Goal goal;
  std::string until;                              // a phase, or ""
  bool anyway = false;                            // go back although it is observed not to be possible
};
struct Paused { bool paused; };
struct Confirmed {                                // the operator's word for a gate that waits
  std::string phase;
  std::string by;                                 // who, and how
};
struct Outcome {                                  // of an apply or undo
  std::string step;
  Direction direction;
  std::uint64_t epoch;
  std::uint64_t number;
  Result<Json> result;
};
struct Observed {                                 // of an observe
  std::string step;
  std::uint64_t epoch;
  std::uint64_t number;
  Result<Json> result;
};
// clang-format on
// What bounds us: measured downtime and the window. Measured after the last answer that the engine was given: an attempt
// that failed, or a step that was expected to be felt, makes what was told before it worthless. Without facts no step
// begins that they bound; going back is never bounded.
struct Facts {
  std::map<std::string, std::int64_t> downtime_ms;  // upper bound used so far, per service
  bool window_open = true;
  std::optional<std::int64_t> window_left_ms;  // until it closes; nothing where there is no window
};
struct NoFacts {};  // they cannot be had at present: nobody measures
struct Accepted {
  std::vector<std::string> sources;
};             // the operator: they may still talk to old when it is given up
struct Left {  // of a Depart: nothing of ours is on that host any more
  std::string host;
  std::uint64_t epoch;
  Result<> result;
};
// Whether everything that was done could be undone now, and nothing would be lost. Observed after the last step that
// users could feel was done: its end makes what was told before it worthless.
struct GoingBack {
  bool possible = true;
  std::string step;  // whose undo would not work, and why; "" where all would
  std::string why;
  std::set<std::string> dead;  // services whose new side serves nobody: they are not eased back, but taken back
};
// What the guard of a service says after a look. Which looks there are is the shell's affair, while guarding() holds.
struct Judged {
  std::string service;
  Judgement judgement;
  Json baseline = Json();  // old's latencies before the shift, where they are known for the first time
};
// What a look at everything that a hold keeps has found; `why` is "" where all of it holds.
struct Kept {
  std::string step;
  std::string why;
};
// What an attempt of a step cost its service, as the meter bounds it.
struct Measured {
  std::string step;
  std::int64_t lower_ms = 0;
  std::int64_t upper_ms = 0;
};
// The operator has changed a limit or what is still ahead, within what may be changed (docs/OPERATING.md, Tuning).
struct Tuned {
  std::string what;  // "services.web.traffic.hold=30s", for people
  std::string by;
  Json set = Json::array();  // docs/formats/journal.md
  Json manifest = Json();    // the changed manifest, where a changed file brought it
};
struct Tick {};  // time has come
using Event = std::variant<Started, Adopted, NotAdopted, LinkLost, Asked, Paused, Outcome, Observed, Facts, NoFacts,
                           Accepted, Judged, Kept, Confirmed, Measured, Tuned, Left, GoingBack, Tick>;

// ---- effects ------------------------------------------------------------------------------------------------
struct Adopt {
  std::string host;
  std::uint64_t epoch;
};
struct Call {
  enum class Verb { apply, undo, observe } verb;
  std::string step;
  std::string host;
  std::string mover;
  Json desired;
  std::uint64_t epoch;
  std::uint64_t number;  // of this engine's calls; with the epoch it names the call
  std::int64_t deadline_ms;
};
// Take midstream off this host, whatever of it is there, as far as it got before; to be answered with Left, once. There is
// no link to that host any more, and none is to be made.
struct Depart {
  std::string host;
  bool power_off;
  std::uint64_t epoch;
};
using Command = std::variant<Adopt, Call, Depart>;

struct Effects {
  std::vector<Json> records;  // to be durable before any command is sent
  std::vector<Command> commands;
  std::optional<std::int64_t> wake_at;
};

// ---- state, for status and report ---------------------------------------------------------------------------
enum class Progress { pending, running, done, undoing, undone };
struct StepState {
  Progress progress = Progress::pending;
  int attempt = 0;
  std::int64_t began_ms = 0;      // of the latest intent
  std::int64_t first_ms = 0;      // of the first intent in this direction
  std::int64_t ended_ms = 0;      // of the latest outcome
  std::int64_t red_since_ms = 0;  // of a hold that keeps something: since when something does not hold, 0: all does
  std::int64_t red_ms = 0;        // and for how long that was so before; the hold lasts so much longer
  std::string red;                // what, as last recorded
  Json result = Json::object();
  std::optional<Error> error;  // of the latest attempt, if it failed
};

inline constexpr std::int64_t kRampMs = 500;
// What was last recorded of going back, and how long it was not possible.
struct WayBack {
  bool possible = true;
  std::string step;
  std::string why;
  std::int64_t since_ms = 0;   // of this answer
  std::int64_t closed_ms = 0;  // before it, in sum
  int closed = 0;              // how often it was found not to be possible
};

struct State {
  Plan plan;
  std::uint64_t epoch = 0;
  Goal goal = Goal::idle;
  std::string until;
  bool paused = false;
  std::string paused_why;  // "" where the operator paused
  std::vector<StepState> steps;
  std::optional<Error> stopped;  // why nothing goes on until the operator asks again
  std::string stopped_step;
  std::set<std::string> accepted;  // who may still talk to old; added to "accept" of desired states that have it
  std::set<std::string> leaving;   // hosts that midstream was asked to leave, those that it has left among them
  std::set<std::string> left;
  std::map<std::string, Verdict> verdicts;  // of each guard, as last recorded
  std::map<std::string, Json> baselines;    // service -> old's latencies before the shift
  std::vector<Json> verdict_records;        // all of them, for the report
  struct Cost {
    int times = 0;
    std::int64_t worst_ms = 0;
  };
  std::optional<int> window_to_minute;   // where it was tuned
  std::map<std::string, Cost> measured;  // "mover/kind" -> what its steps cost in this move
  std::string hash;                      // of the plan that the move began with
  // Where a guard has failed: the step down to which everything is undone, that one included; then the move stops.
  std::string back_to;
  Error back_why;
  std::int64_t ramp_ms = kRampMs;   // time for old to take up each share of the traffic that comes back
  std::optional<WayBack> way_back;  // nothing: not observed yet
  bool back_begun = false;          // goal back, and old was not found unfit before anything was undone

  bool going_back() const { return goal == Goal::back || (goal != Goal::end && !back_to.empty()); }
  // Index of the last step that is to be undone, going back.
  int floor() const;
  // The latest step begun among those that the guard of `service` watches: which share of the traffic new has. "" before.
  std::string share(const std::string& service) const;
  // Whether any irreversible step was begun.
  bool past_return() const;
  // What is desired of a step, with what the operator has accepted since the plan was made.
  Json desired(int index) const;
  // Going back has come to its end: nothing is left to undo.
  bool taken_back() const;
  // Every step is done.
  bool steps_done() const;
  // Midstream was taken off every host that the plan lists: the move is over.
  bool over() const;
  // Everything that the goal asks for holds.
  bool complete() const;
  // A step that users could feel is done: going back is no longer only to clear away.
  bool felt() const;
};

class Engine {
 public:
  Engine() = default;

  // Adds one stored record to the state. Corrupt on a record that cannot follow what was folded before.
  Result<> fold(const Json& record);
  Effects handle(std::int64_t now, const Event& event);

  const State& state() const { return state_; }
  // Why the operator cannot ask for this now; nothing if they can.
  std::optional<Error> objection(Goal goal) const;
  // Why the operator cannot abort: to undo all is `rollback` once the first switch was begun.
  std::optional<Error> objection_to_abort() const;
  // Why no gate before this phase waits for the operator's word.
  std::optional<Error> objection_to_confirm(const std::string& phase) const;
  // The phase whose gate waits for it; "" where none does.
  std::string awaited_word() const;
  // The first record of a journal.
  static Json plan_record(std::int64_t now, const Plan& plan);
  // Whether it goes by what GoingBack tells: the shell observes it then, again and again.
  bool asks_for_way_back() const;
  // What is waited for, in words; "" when nothing is.
  std::string waiting() const;
  // The step that keeps something and is under way; nullptr where none is.
  const Step* keeping() const;
  // Whether the guard of this service has a say now.
  bool guarding(const std::string& service) const;
  // The newest verdict of each guard, recorded or not. Not kept over a restart.
  const std::map<std::string, Judgement>& judgements() const { return judgements_; }

 private:
  struct Flight;  // handle() in progress

  friend struct EngineInsight;  // of tests: what is not recorded

  void adopted(const Adopted& adoption);
  void link_lost(Flight& flight, const std::string& host);
  void asked(Flight& flight, const Asked& ask);
  void judged(Flight& flight, const Judged& word);
  void kept(Flight& flight, const Kept& look);
  void ended(Flight& flight, const Outcome& outcome);
  void observed(Flight& flight, const Observed& observation);
  void told(Flight& flight, const GoingBack& answer);
  void renew_epoch(Flight& flight);
  void proceed(Flight& flight);
  void forward(Flight& flight);
  void backward(Flight& flight);
  void depart(Flight& flight);
  void left(Flight& flight, const Left& answer);
  std::optional<Error> objection_at_the_end(Goal goal) const;
  bool ease_back(Flight& flight, int index);
  bool ready_to_go_back(Flight& flight, const Step& step);
  void drive(Flight& flight, int index);
  void try_again(Flight& flight, int index);
  void begin(Flight& flight, int index, Direction direction);
  void send(Flight& flight, int index, Call::Verb verb);
  void succeed(Flight& flight, int index, const Json& result, bool by_observation);
  void fail(Flight& flight, int index, const Error& error);
  void stop(Flight& flight, const std::string& step, const Error& error);
  void record(Flight& flight, Json record);
  bool awaited(bool observing, std::string_view step, std::uint64_t epoch, std::uint64_t number) const;
  bool all_adopted(const Step& step) const;
  bool bounded(const Step& step) const;
  bool way_back_open(const Step& step) const;
  std::string waiting_for_way_back(const Step& step) const;
  std::optional<Error> refusal(const Step& step, std::int64_t now) const;
  int running_index() const;
  int next_index() const;
  bool departs() const;
  std::string waiting_to_leave() const;
  std::string waiting_for_agents(const Step& step) const;
  std::string waiting_for_guard(const Step& step) const;
  const Judgement* doubt() const;
  std::int64_t ramp_end(int index, std::int64_t now) const;

  State state_;
  // Not recorded: lost with the process, rebuilt by asking the world.
  std::set<std::string> adopted_;
  std::map<std::string, Error> not_adopted_;  // what was last heard of each other host
  bool in_flight_ = false;                    // a call for the running step is out: the latest
  std::uint64_t calls_ = 0;                   // number of the latest call
  bool observing_ = false;                    // which observes
  bool resolve_ = false;                      // what the running step's last attempt left is unknown: observe it first
  bool looked_ = false;                       // observed since the running step's last attempt; seen_ says what it left
  int asked_in_vain_ = 0;                     // observations that failed while resolving
  std::int64_t not_before_ = 0;               // backoff or poll
  Json seen_ = Json::object();                // last observation of the running step
  std::optional<Facts> facts_;
  std::string departing_;  // the host that a Depart is out for
  int departures_ = 0;     // asked for of that host in vain
  std::map<std::string, Judgement> judgements_;
  bool green_ = false;  // the last look at what the running hold keeps found nothing missing
  std::optional<GoingBack> going_back_;
  bool look_before_going_back_ = false;  // the operator has asked; old is looked at before anything is undone
};

}  // namespace midstream
