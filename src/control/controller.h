// The shell around the engine: journal, links to the agents, clock, control socket. One thread owns the engine;
// everything else posts to it.
#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <thread>

#include "control/guard_watch.h"
#include "control/journal.h"
#include "control/keeper_watch.h"
#include "control/link.h"
#include "control/peers.h"
#include "engine/engine.h"
#include "manifest/manifest.h"

namespace midstream {

struct ControllerOptions {
  Manifest manifest;
  std::filesystem::path directory;     // of the journal, the control socket, the status
  std::filesystem::path agent_binary;
  std::function<void(const std::string& line)> tell;  // the story, one line a call; called on the controller's thread
  std::vector<std::string> accept;  // who may still talk to old, at the operator's word
};

enum class Ending {
  complete,     // the goal holds
  stopped,      // something must be done by the operator; state().stopped says what
  interrupted,  // asked to end; nothing was undone, run again goes on
};

class Controller {
 public:
  // Takes the journal's lock and folds it. Refused while another controller of the move runs.
  static Result<std::unique_ptr<Controller>> open(ControllerOptions options);
  ~Controller();

  bool has_plan() const { return !engine_.state().plan.steps.empty(); }
  // Begins the journal with this plan, made from this manifest.
  Result<> begin(const Plan& plan);

  // Pursues the goal until it holds, or is stopped. Refused (nothing done) where the engine objects, or where the
  // manifest differs from the journal's in more than may be tuned; what may, is, in the name of `by`.
  // `anyway`: go back although it is observed not to be possible.
  Result<Ending> drive(Goal goal, const std::string& until, const std::stop_token& stop, bool anyway = false);

  const State& state() const { return engine_.state(); }
  std::optional<Error> objection_to_abort() const { return engine_.objection_to_abort(); }
  // The probe's figures as last read; {} before.
  const Json& meter() const { return meter_; }

 private:
  struct Host;

  explicit Controller(ControllerOptions options, Journal journal);
  void post(std::function<Result<>()> work);
  Result<Ending> loop(const std::stop_token& stop);
  Result<> dispatch(const Event& event);
  Result<> send(const Command& command);
  Result<> send_call(const Call& call);
  void depart(const Depart& depart);
  Host* host_of(const std::string& name);
  void request(Host& host, Json message, std::int64_t deadline_ms, std::function<Result<>(const Result<Json>&)> done);
  Result<> send_adoptions();
  Result<> adoption_ended(Host& host, std::uint64_t epoch, int listing, const Result<Json>& result);
  Result<> send_plan(Host& host, std::uint64_t epoch, int listing);
  Result<> send_changed_plan();
  Result<> announce_adoptions();
  Result<> link_up(Host& host, std::shared_ptr<AgentLink> link);
  Result<> link_lost(Host& host);
  Result<> drop_overdue();
  void keep_link(Host& host, const std::stop_token& stop);
  Result<Json> answer_operator(const Json& request);
  void read_meter();
  void read_stragglers();
  Result<> meter_answered(std::chrono::nanoseconds asked_at, const Result<Json>& result);
  bool probing() const;
  Result<> tell_facts();
  Result<> look_back();
  Result<> looked_back(std::uint64_t round, const std::string& host, const Result<Json>& result);
  void last_meter(Deadline deadline);
  Result<> ask_guards();
  Result<> look_for_word();
  Result<> look_at_kept();
  Result<> kept_answered(std::uint64_t look, const std::string& step, const Result<Json>& result);
  Result<Json> tune(const std::string& setting, const std::string& by);
  std::optional<Window> window() const;
  void begin_measuring(const std::string& step);
  Result<> measure();
  void remember(const Step& step, std::int64_t blackout_ms, std::optional<std::int64_t> took_ms);
  Result<> guard_answered(const std::string& service, const Result<Json>& result);
  Json status();
  void write_status();

  ControllerOptions options_;
  Journal journal_;
  Engine engine_;
  Json manifest_recorded_;  // as the journal has it: the one that the move began with, or the last one that was changed
  std::string journal_id_;
  Json plan_record_;  // what agents keep of the journal: src/control/rebuild.h
  Json meter_ = Json::object();
  Json stragglers_ = Json::object();  // who talked to old when it was last asked; {} before
  bool stragglers_asked_ = false;
  std::optional<std::int64_t> wake_at_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::map<std::string, PeerAddress> peers_;  // every agent that was ever reached, also by an earlier controller
  int listing_ = 0;                           // counts the changes of peers_
  bool meter_asked_ = false;
  // By the clock since boot. The figures count from when they were asked for; before this process has any, never.
  std::optional<std::chrono::nanoseconds> measured_at_;
  std::chrono::nanoseconds effect_ended_at_{0};
  std::map<std::string, GuardWatch> guards_;  // those that have a say now
  std::set<std::string> guards_asked_;
  std::optional<KeptLook> kept_look_;  // under way
  std::uint64_t kept_looks_ = 0;
  Json kept_meter_;  // the figures at the look before
  // An effect that is bound by budget or window, and what its service had lost before it; measured once it is over and the
  // meter has been asked since.
  struct Felt {
    std::string step;
    bool over = false;
    std::int64_t lower_ms = 0;
    std::int64_t upper_ms = 0;
  };
  std::optional<Felt> felt_;
  // One look of all agents at the way back.
  struct LookBack {
    std::uint64_t round = 0;
    std::uint64_t epoch = 0;
    std::set<std::string> open;  // hosts whose answer is awaited
    std::map<std::string, Result<Json>> answers;
    std::chrono::nanoseconds began{0};
    std::chrono::nanoseconds told{0};  // when the engine was last told what a look came to
  };
  LookBack look_back_;
  bool ended_ = false;  // nothing is decided any more
  // What was asked of an agent and is not answered. One that is overdue ends its link, and everything is asked anew.
  struct Question {
    std::string host;
    std::chrono::nanoseconds overdue_at;
  };
  std::map<std::uint64_t, Question> questions_;
  std::uint64_t last_question_ = 0;

  std::mutex mutex_;
  std::condition_variable_any posted_;
  std::deque<std::function<Result<>()>> work_;
};

// The status as one JSON object (schema midstream.status/1), from a folded engine.
Json status_json(const Engine& engine, const Json& meter);

}  // namespace midstream
