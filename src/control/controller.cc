#include "control/controller.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <future>

#include "base/text.h"
#include "control/check.h"
#include "control/control_socket.h"
#include "control/departure.h"
#include "control/rebuild.h"
#include "control/rules.h"
#include "control/story.h"
#include "control/way_back.h"
#include "control/window.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream {

namespace {
constexpr Millis kPeriod{500};   // of status, facts and meter
constexpr Millis kGrace{10'000};  // beyond a call's own deadline, for its answer to arrive
constexpr Millis kFresh{5'000};   // older figures of the probe say nothing about now
constexpr Millis kAdoptLimit{30'000};
constexpr Millis kMeterLimit{5'000};
constexpr Millis kLeaveLimit{90'000};
constexpr Millis kLook{1'000};  // from one look of the guards to the next
constexpr Millis kLookBack{1'000};       // from one look at the way back to the next
constexpr Millis kLookBackLimit{5'000};  // of one; an agent that has not answered for so long stands in the way

// Who started this program, for the journal.
std::string who_runs() { return fmt::format("the one who ran it (uid {})", ::getuid()); }

}

// One host's link and the thread that keeps it.
struct Controller::Host {
  SshTarget target;
  // The epoch that the agent is asked to adopt, until it has; then the listing of peers that it has with it.
  std::uint64_t wanted = 0;
  bool asking = false;
  bool adopted = false;             // of `wanted`, in answer to this link
  bool announced = false;           // to the engine
  int listing = -1;
  std::mutex mutex;
  std::condition_variable_any changed;
  bool lost = false;
  std::string trouble;              // why it cannot be reached, guarded by mutex
  std::jthread keeper;
  std::jthread leaver;              // at work once the host is left
  std::shared_ptr<AgentLink> link;  // the controller thread's; null while down. Last: its end still tells `changed`
};

Result<std::unique_ptr<Controller>> Controller::open(ControllerOptions options) {
  auto journal = TRY(Journal::open(options.directory));
  const auto records = TRY(journal.read());
  std::unique_ptr<Controller> controller(new Controller(std::move(options), std::move(journal)));
  for (const auto& record : records) {
    CHECK_OK(controller->engine_.fold(record));
    if (record.contains("manifest")) controller->manifest_recorded_ = record["manifest"];
    if (get_string_or(record, "type", "") == "plan") controller->journal_id_ = get_string_or(record, "journal", "");
    add_to_kept_plan(controller->plan_record_, record);
  }
  if (auto saved = read_file(controller->options_.directory / "meter.json")) {
    controller->meter_ = parse_json(*saved).value_or(Json::object());
  }
  // Where it is missing or broken, agents are learned of as they are reached.
  if (auto saved = read_file(controller->options_.directory / "peers.json")) {
    controller->peers_ = peers_from_json(parse_json(*saved).value_or(Json::object())).value_or(std::map<std::string, PeerAddress>{});
  }
  return controller;
}

Controller::Controller(ControllerOptions options, Journal journal) : options_(std::move(options)), journal_(std::move(journal)) {}

Controller::~Controller() {
  for (auto& host : hosts_) host->keeper.request_stop();
  for (auto& host : hosts_) {
    if (host->leaver.joinable()) host->leaver.join();
    if (host->keeper.joinable()) host->keeper.join();
  }
  work_.clear();  // may hold links, whose end speaks to their hosts
  hosts_.clear();
}

Result<> Controller::begin(const Plan& plan) {
  auto record = Engine::plan_record(wall_now_ms(), plan);
  record["manifest"] = to_json(options_.manifest);
  journal_id_ = TRY(make_journal_id());
  record["journal"] = journal_id_;
  CHECK_OK(journal_.append({record}));
  manifest_recorded_ = record["manifest"];
  add_to_kept_plan(plan_record_, record);
  return engine_.fold(record);
}

void Controller::post(std::function<Result<>()> work) {
  std::lock_guard lock(mutex_);
  work_.push_back(std::move(work));
  posted_.notify_all();
}

Result<Ending> Controller::drive(Goal goal, const std::string& until, const std::stop_token& stop, bool anyway) {
  const auto changed = tuning(manifest_recorded_, options_.manifest, engine_.state());
  if (!changed) return with_context(changed.error(), "the manifest has changed since the move began");
  if (auto objection = engine_.objection(goal)) return std::unexpected(*objection);
  auto socket = TRY(ControlSocket::open(options_.directory / "control.sock", [this](const Json& request) { return answer_operator(request); }));
  for (const auto& spec : options_.manifest.hosts) {
    auto host = std::make_unique<Host>();
    host->target = ssh_target(options_.manifest, spec);
    if (!engine_.state().leaving.contains(spec.name))
      host->keeper = std::jthread([this, raw = host.get()](const std::stop_token& ended) { keep_link(*raw, ended); });
    hosts_.push_back(std::move(host));
  }
  CHECK_OK(dispatch(Started{}));
  CHECK_OK(dispatch(Accepted{options_.accept}));
  if (!changed->empty()) CHECK_OK(dispatch(Tuned{"the manifest's file", who_runs(), *changed, to_json(options_.manifest)}));
  CHECK_OK(dispatch(Asked{goal, until, anyway}));
  look_back_.told = boot_now();
  auto ending = loop(stop);
  socket.reset();
  ended_ = true;
  last_meter(Deadline::in(Millis(3'000)));
  write_status();
  return ending;
}

Result<Ending> Controller::loop(const std::stop_token& stop) {
  auto next_period = boot_now() + kPeriod;
  auto next_look = boot_now();
  while (true) {
    if (engine_.state().complete()) return Ending::complete;
    if (engine_.state().stopped) return Ending::stopped;
    if (stop.stop_requested()) return Ending::interrupted;
    std::function<Result<>()> work;
    {
      std::unique_lock lock(mutex_);
      auto patience = std::chrono::ceil<Millis>(next_period - boot_now());
      if (wake_at_) patience = std::min(patience, Millis(*wake_at_ - wall_now_ms()));
      posted_.wait_for(lock, stop, std::max(patience, Millis(0)), [&] { return !work_.empty(); });
      if (!work_.empty()) {
        work = std::move(work_.front());
        work_.pop_front();
      }
    }
    if (work) CHECK_OK(work());
    if (wake_at_ && wall_now_ms() >= *wake_at_) CHECK_OK(dispatch(Tick{}));
    CHECK_OK(look_back());
    if (boot_now() >= next_period) {
      next_period = boot_now() + kPeriod;
      read_meter();
      read_stragglers();
      CHECK_OK(tell_facts());
      if (boot_now() >= next_look) {
        next_look = boot_now() + kLook;
        CHECK_OK(ask_guards());
        CHECK_OK(look_at_kept());
      }
      CHECK_OK(look_for_word());
      CHECK_OK(drop_overdue());
      CHECK_OK(send_adoptions());
      write_status();
    }
  }
}

// Records are on disk before any command of theirs is sent. A journal that cannot be written ends the controller:
// nothing was sent, and the next start observes.
Result<> Controller::dispatch(const Event& event) {
  if (ended_) return {};
  auto effects = engine_.handle(wall_now_ms(), event);
  if (auto kept = journal_.append(effects.records); !kept) {
    ended_ = true;  // memory is ahead of the journal now: nothing more is decided on it
    return kept;
  }
  wake_at_ = effects.wake_at;
  for (const auto& record : effects.records) {
    if (add_to_kept_plan(plan_record_, record)) CHECK_OK(send_changed_plan());
    const auto line = story_line(engine_.state(), record);
    if (!line.empty() && options_.tell) options_.tell(line);
  }
  for (const auto& command : effects.commands) CHECK_OK(send(command));
  return {};
}

Result<> Controller::send(const Command& command) {
  if (const auto* adopt = std::get_if<Adopt>(&command)) {
    if (auto* host = host_of(adopt->host)) {
      host->wanted = adopt->epoch;
      host->adopted = host->announced = host->asking = false;
    }
    return send_adoptions();
  }
  if (const auto* departure = std::get_if<Depart>(&command)) {
    depart(*departure);
    return {};
  }
  return send_call(std::get<Call>(command));
}

// No link is kept to that host from here on. What the probe measured is read a last time before it ends.
void Controller::depart(const Depart& depart) {
  auto* host = host_of(depart.host);
  const int probe = engine_.state().plan.find("probe");
  const bool vantage = probe >= 0 && engine_.state().plan.steps[probe].host == depart.host;
  Departure departure{host->target, options_.manifest.move, journal_id_, depart.epoch, depart.power_off, options_.agent_binary,
                      vantage ? options_.directory / "probe.log" : std::filesystem::path()};
  host->keeper.request_stop();
  host->link.reset();
  host->wanted = 0;
  host->adopted = host->announced = host->asking = false;
  host->leaver = std::jthread([this, host, departure, epoch = depart.epoch] {
    if (host->keeper.joinable()) host->keeper.join();
    auto left = take_leave(departure, Deadline::in(kLeaveLimit));
    post([this, name = departure.target.host, epoch, left] { return dispatch(Left{name, epoch, left}); });
  });
}

Result<> Controller::send_call(const Call& call) {
  const auto verb = call.verb == Call::Verb::apply ? "apply" : call.verb == Call::Verb::undo ? "undo" : "observe";
  const Json message{{"type", "call"}, {"move", engine_.state().plan.move}, {"step", call.step}, {"epoch", call.epoch}, {"mover", call.mover},
                     {"number", call.number}, {"verb", verb}, {"desired", call.desired}, {"deadline_ms", call.deadline_ms}};
  if (call.verb == Call::Verb::apply) begin_measuring(call.step);
  if (call.verb == Call::Verb::undo) felt_.reset();
  const auto answered = [this, call](const Result<Json>& result) -> Result<> {
    if (call.verb == Call::Verb::observe) return dispatch(Observed{call.step, call.epoch, call.number, result});
    effect_ended_at_ = boot_now();
    if (felt_ && felt_->step == call.step) felt_->over = true;
    const auto direction = call.verb == Call::Verb::apply ? Direction::forward : Direction::back;
    CHECK_OK(dispatch(Outcome{call.step, direction, call.epoch, call.number, result}));
    read_meter();
    return {};
  };
  if (auto* host = host_of(call.host); host != nullptr && host->link) {
    request(*host, message, call.deadline_ms, answered);
  } else {
    post([answered, host = call.host] { return answered(failure(ErrorKind::unknown, fmt::format("no link to the agent on {}", host))); });
  }
  return {};
}

Controller::Host* Controller::host_of(const std::string& name) {
  const auto found = std::ranges::find_if(hosts_, [&](const auto& host) { return host->target.host == name; });
  return found == hosts_.end() ? nullptr : found->get();
}

// Over the host's link, which is up. `done` is called once, on the controller's thread.
void Controller::request(Host& host, Json message, std::int64_t deadline_ms, std::function<Result<>(const Result<Json>&)> done) {
  message["deadline_ms"] = deadline_ms;
  const auto number = ++last_question_;
  questions_[number] = {host.target.host, boot_now() + Millis(deadline_ms) + kGrace};
  host.link->request(std::move(message), [this, number, done = std::move(done)](const Result<Json>& result) {
    post([this, number, done, result] {
      questions_.erase(number);
      return done(result);
    });
  });
}

Result<> Controller::drop_overdue() {
  const auto late = std::ranges::find_if(questions_, [](const auto& one) { return boot_now() >= one.second.overdue_at; });
  if (late == questions_.end()) return {};
  const auto name = late->second.host;
  std::erase_if(questions_, [&](const auto& one) { return one.second.host == name; });
  auto* host = host_of(name);
  if (host == nullptr || !host->link) return {};
  host->link.reset();  // whatever is unanswered ends as unknown
  {
    std::lock_guard lock(host->mutex);
    host->lost = true;
    host->trouble = "the agent does not answer in time; its link is made anew";
    host->changed.notify_all();
  }
  if (options_.tell) options_.tell(fmt::format("          {:<8} the agent on {} does not answer in time; its link is made anew", "move", name));
  CHECK_OK(dispatch(NotAdopted{name, retry("the agent does not answer in time").error()}));
  return dispatch(LinkLost{name});
}

// An adoption carries the address and key of every agent that is known; when another one becomes known, all adopt the
// same epoch once more.
Result<> Controller::send_adoptions() {
  for (const auto& host : hosts_) {
    const bool up_to_date = host->adopted && host->listing == listing_;
    if (host->wanted == 0 || !host->link || host->asking || up_to_date) continue;
    host->asking = true;
    request(*host, {{"type", "adopt"}, {"epoch", host->wanted}, {"journal", journal_id_}, {"peers", to_json(peers_)}}, kAdoptLimit.count(),
            [this, raw = host.get(), epoch = host->wanted, listing = listing_](const Result<Json>& result) {
              return adoption_ended(*raw, epoch, listing, result);
            });
  }
  return {};
}

Result<> Controller::adoption_ended(Host& host, std::uint64_t epoch, int listing, const Result<Json>& result) {
  if (epoch != host.wanted) return {};  // a newer one has been asked for meanwhile
  if (result && get_string_or(*result, "plan", "") != get_string_or(plan_record_, "hash", "")) return send_plan(host, epoch, listing);
  host.asking = false;
  if (result) {
    host.adopted = true;
    host.listing = listing;
    CHECK_OK(announce_adoptions());
    return send_adoptions();
  }
  if (result.error().kind == ErrorKind::fenced) return with_context(result.error(), fmt::format("agent on {}", host.target.host));
  return dispatch(NotAdopted{host.target.host, result.error()});  // asked again with the next period, or when the link is up again
}

// An agent that has adopted us keeps the plan, before it is asked for anything: from that a lost journal is rebuilt.
Result<> Controller::send_plan(Host& host, std::uint64_t epoch, int listing) {
  if (!host.link) return {};
  request(host, {{"type", "keep_plan"}, {"epoch", epoch}, {"record", plan_record_}}, kAdoptLimit.count(),
          [this, raw = &host, epoch, listing](const Result<Json>& result) {
            if (result && get_string_or(*result, "plan", "") != get_string_or(plan_record_, "hash", ""))
              return adoption_ended(*raw, epoch, listing, retry("the agent keeps another plan"));
            return adoption_ended(*raw, epoch, listing, result);
          });
  return {};
}

// Whoever cannot be told now is told when it adopts us again.
Result<> Controller::send_changed_plan() {
  for (const auto& host : hosts_) {
    if (host->adopted) CHECK_OK(send_plan(*host, host->wanted, host->listing));
  }
  return {};
}

// To the engine an agent counts once it knows of all others that count: a step could else ask for a peer in vain.
Result<> Controller::announce_adoptions() {
  const auto behind = [&](const auto& host) { return host->adopted && host->listing != listing_; };
  if (std::ranges::any_of(hosts_, behind)) return {};
  std::vector<Host*> ready;
  for (const auto& host : hosts_) {
    if (!host->adopted || host->announced) continue;
    host->announced = true;
    ready.push_back(host.get());
  }
  for (const auto* host : ready) CHECK_OK(dispatch(Adopted{host->target.host, host->wanted}));
  return {};
}

Result<> Controller::link_up(Host& host, std::shared_ptr<AgentLink> link) {
  const auto& hello = link->hello();
  const auto known = peers_;
  peers_[host.target.host] = {TRY(get_string(hello, "address")), static_cast<std::uint16_t>(TRY(get_int(hello, "port"))),
                              TRY(get_string(hello, "fingerprint"))};
  host.link = std::move(link);
  host.adopted = host.announced = host.asking = false;
  if (to_json(peers_) != to_json(known)) {
    ++listing_;
    CHECK_OK(write_file_durably(options_.directory / "peers.json", to_json(peers_).dump()));
  }
  return send_adoptions();
}

Result<> Controller::link_lost(Host& host) {
  if (!host.link) return {};
  host.link.reset();
  host.adopted = host.announced = host.asking = false;
  if (options_.tell) options_.tell(fmt::format("          {:<8} link to the agent on {} is lost; it is sought again", "move", host.target.host));
  return dispatch(LinkLost{host.target.host});
}

// On a thread of its own: puts the agent there, keeps a link up, tells the controller of each change.
void Controller::keep_link(Host& host, const std::stop_token& stop) {
  bool installed = false;
  while (!stop.stop_requested()) {
    const auto limit = Deadline::in(Millis(60'000));
    auto attempt = [&]() -> Result<std::shared_ptr<AgentLink>> {
      if (!installed) CHECK_OK(bootstrap_agent(host.target, options_.manifest.move, options_.agent_binary, limit));
      installed = true;
      {
        std::lock_guard lock(host.mutex);
        host.lost = false;
      }
      return std::shared_ptr<AgentLink>(TRY(AgentLink::open(host.target, options_.manifest.move, limit.sooner(Millis(10'000)), [&host] {
        std::lock_guard lock(host.mutex);
        host.lost = true;
        host.changed.notify_all();
      })));
    }();
    if (!attempt) {
      installed = false;  // the host may have been made anew: the next attempt looks
      {
        std::lock_guard lock(host.mutex);
        host.trouble = attempt.error().text();
      }
      post([this, &host, why = attempt.error()] { return dispatch(NotAdopted{host.target.host, why}); });
    } else {
      post([this, &host, link = std::move(*attempt)] { return link_up(host, link); });
      std::unique_lock lock(host.mutex);
      host.trouble.clear();
      host.changed.wait(lock, stop, [&] { return host.lost; });
      lock.unlock();
      if (!stop.stop_requested()) post([this, &host] { return link_lost(host); });
    }
    if (!pause_for(Millis(200), stop)) return;
  }
}

Result<Json> Controller::answer_operator(const Json& request) {
  const auto verb = TRY(get_string(request, "verb"));
  const bool anyway = get_bool_or(request, "anyway", false);
  auto promise = std::make_shared<std::promise<Result<Json>>>();
  auto answer = promise->get_future();
  post([this, verb, anyway, request, promise]() -> Result<> {
    if (verb == "status") {
      promise->set_value(status());
      return {};
    }
    if (verb == "confirm") {
      const auto phase = get_string_or(request, "phase", "");
      if (auto objection = engine_.objection_to_confirm(phase)) {
        promise->set_value(std::unexpected(*objection));
        return {};
      }
      promise->set_value(Json{{"accepted", verb}});
      return dispatch(Confirmed{phase, get_string_or(request, "by", "?")});
    }
    if (verb == "tune") {
      promise->set_value(tune(get_string_or(request, "setting", ""), get_string_or(request, "by", "?")));
      return {};
    }
    const bool abort = verb == "abort";
    const auto goal = verb == "rollback" || abort ? Goal::back : verb == "finish" ? Goal::finish : verb == "run" ? Goal::run : Goal::idle;
    if (goal == Goal::idle && verb != "pause" && verb != "continue") {
      promise->set_value(refused(fmt::format("the controller knows no '{}'", verb)));
      return {};
    }
    if (auto objection = abort ? engine_.objection_to_abort() : goal == Goal::idle ? std::nullopt : engine_.objection(goal)) {
      promise->set_value(std::unexpected(*objection));
      return {};
    }
    promise->set_value(Json{{"accepted", verb}});
    return goal == Goal::idle ? dispatch(Paused{verb == "pause"}) : dispatch(Asked{goal, "", anyway});
  });
  if (answer.wait_for(std::chrono::seconds(5)) != std::future_status::ready) return retry("the controller is busy");
  return answer.get();
}

// The measured downtime, asked of the probe's host beside whatever is going on.
void Controller::read_meter() {
  if (meter_asked_ || !probing()) return;
  const auto& state = engine_.state();
  const auto& step = state.plan.steps[state.plan.find("probe")];
  auto* host = host_of(step.host);
  if (host == nullptr || !host->link || !host->adopted) return;
  meter_asked_ = true;
  request(*host,
          {{"type", "call"}, {"move", state.plan.move}, {"step", step.id}, {"epoch", state.epoch}, {"mover", step.mover}, {"verb", "observe"},
           {"desired", step.desired}},
          kMeterLimit.count(), [this, asked_at = boot_now()](const Result<Json>& result) { return meter_answered(asked_at, result); });
}

// An unanswered question leaves the last figures standing for status and report; the engine is not told of them again.
Result<> Controller::meter_answered(std::chrono::nanoseconds asked_at, const Result<Json>& result) {
  meter_asked_ = false;
  if (!result || !result->contains("services")) return {};
  meter_ = *result;
  measured_at_ = asked_at;
  CHECK_OK(measure());
  return tell_facts();
}

// From the soak on, for status and report; what the engine waits for it observes itself.
void Controller::read_stragglers() {
  const auto& state = engine_.state();
  const int index = state.plan.find("old-silent");
  const bool early = std::ranges::any_of(state.plan.steps, [&](const Step& step) {
    const auto at = state.steps[&step - state.plan.steps.data()].progress;
    return phase_index(step.phase) < phase_index("soak") && at != Progress::done;
  });
  if (stragglers_asked_ || index < 0 || early || state.goal == Goal::back || state.steps[index].progress == Progress::done) return;
  const auto& step = state.plan.steps[index];
  auto* host = host_of(step.host);
  if (host == nullptr || !host->link || !host->adopted) return;
  stragglers_asked_ = true;
  request(*host,
          {{"type", "call"}, {"move", state.plan.move}, {"step", step.id}, {"epoch", state.epoch}, {"mover", step.mover}, {"verb", "observe"},
           {"desired", state.desired(index)}},
          kMeterLimit.count(), [this](const Result<Json>& result) -> Result<> {
            stragglers_asked_ = false;
            if (!result) return {};
            stragglers_ = *result;
            return write_file_durably(options_.directory / "stragglers.json", stragglers_.dump(-1, ' ', false, Json::error_handler_t::replace));
          });
}

// A look of every guard that has a say. Asking is what keeps the agent's probe traffic going.
Result<> Controller::ask_guards() {
  const auto& state = engine_.state();
  std::erase_if(guards_, [&](const auto& one) { return !engine_.guarding(one.first); });
  for (const auto& spec : state.plan.guards) {
    if (!engine_.guarding(spec.service) || guards_asked_.contains(spec.service)) continue;
    const auto baseline = state.baselines.find(spec.service);
    guards_.try_emplace(spec.service, spec, baseline == state.baselines.end() ? Json() : baseline->second);
    auto* host = host_of(spec.host);
    if (host == nullptr || !host->link || !host->adopted) {
      CHECK_OK(guard_answered(spec.service, retry(fmt::format("the agent on {} cannot be asked", spec.host))));
      continue;
    }
    guards_asked_.insert(spec.service);
    request(*host,
            {{"type", "call"}, {"move", state.plan.move}, {"step", spec.from}, {"epoch", state.epoch}, {"mover", spec.mover}, {"verb", "observe"},
             {"desired", spec.desired}},
            kMeterLimit.count(), [this, service = spec.service](const Result<Json>& result) { return guard_answered(service, result); });
  }
  return {};
}

Result<> Controller::guard_answered(const std::string& service, const Result<Json>& result) {
  guards_asked_.erase(service);
  const auto found = guards_.find(service);
  if (found == guards_.end() || !engine_.guarding(service)) return {};
  const auto share = engine_.state().share(service);
  const auto judgement = found->second.answered(share, result);
  if (!judgement) return {};
  return dispatch(Judged{service, *judgement, found->second.take_baseline(share, *judgement)});
}

void Controller::last_meter(Deadline deadline) {
  meter_asked_ = false;
  const auto before = meter_;
  read_meter();
  while (meter_asked_ && !deadline.expired()) {
    std::function<Result<>()> work;
    {
      std::unique_lock lock(mutex_);
      posted_.wait_for(lock, deadline.remaining(), [&] { return !work_.empty(); });
      if (work_.empty()) break;
      work = std::move(work_.front());
      work_.pop_front();
    }
    if (auto done = work(); !done) log_warn("controller", "{}", done.error().text());
  }
  if (auto saved = write_file_durably(options_.directory / "meter.json", meter_.dump()); !saved) {
    log_warn("controller", "the meter's figures could not be kept: {}", saved.error().text());
  }
}

bool Controller::probing() const {
  const int index = engine_.state().plan.find("probe");
  return index >= 0 && engine_.state().steps[index].progress == Progress::done;
}

namespace {

// What `service` has lost so far, as the meter bounds it; nothing where the meter does not know it.
std::optional<std::pair<std::int64_t, std::int64_t>> lost_so_far(const Json& meter, const std::string& service) {
  for (const auto& one : meter.value("services", Json::array())) {
    if (get_string_or(one, "name", "") != service) continue;
    const auto down = one.value("downtime_ms", Json::object());
    return std::pair(get_int_or(down, "lower", 0), get_int_or(down, "upper", 0));
  }
  return std::nullopt;
}

}  // namespace

// The figures from before it may be half a second old: what was lost in between counts as the step's.
void Controller::begin_measuring(const std::string& id) {
  felt_.reset();
  const auto& step = engine_.state().plan.steps[engine_.state().plan.find(id)];
  const auto before = lost_so_far(meter_, step.service);
  if (step.kind != StepKind::effect || !(step.in_window || step.expected_blackout_ms > 0) || !probing() || !before) return;
  felt_ = Felt{id, false, before->first, before->second};
}

Result<> Controller::measure() {
  if (!felt_ || !felt_->over || *measured_at_ < effect_ended_at_) return {};
  const auto felt = *std::exchange(felt_, std::nullopt);
  const auto& step = engine_.state().plan.steps[engine_.state().plan.find(felt.step)];
  const auto now = lost_so_far(meter_, step.service);
  if (!now) return {};
  const auto& at = engine_.state().steps[engine_.state().plan.find(felt.step)];
  remember(step, now->second - felt.upper_ms, at.progress == Progress::done ? std::optional(at.ended_ms - at.began_ms) : std::nullopt);
  return dispatch(Measured{felt.step, std::max<std::int64_t>(0, now->first - felt.lower_ms), now->second - felt.upper_ms});
}

// For later moves; this one has it in its journal. A history that cannot be kept costs a guess later, not this move.
void Controller::remember(const Step& step, std::int64_t blackout_ms, std::optional<std::int64_t> took_ms) {
  const auto file = options_.directory.parent_path() / "history.json";
  auto kept = [&]() -> Result<> {
    auto history = TRY(History::load(file));
    history.add(history_key(step), {engine_.state().plan.move, step.id, wall_now_ms(), blackout_ms, took_ms});
    return history.save(file);
  }();
  if (!kept) log_warn("controller", "what '{}' cost could not be kept: {}", step.id, kept.error().text());
}

// While a hold keeps something: a look at all of it, one after the other. What is not answered in time does not hold.
Result<> Controller::look_at_kept() {
  const auto* hold = engine_.keeping();
  if (hold == nullptr) {
    kept_look_.reset();
    kept_meter_ = Json();
    return {};
  }
  if (kept_look_ && kept_look_->hold() == hold->id) return {};
  kept_look_.emplace(hold->id, hold->keeps);
  const auto look = ++kept_looks_;
  for (const auto& [service, judgement] : engine_.judgements()) {
    if (judgement.verdict != Verdict::pass) kept_look_->found(fmt::format("the guard of {} says {}", service, to_string(judgement.verdict)));
  }
  for (auto& lost : lost_since(kept_meter_.is_null() ? meter_ : kept_meter_, meter_)) kept_look_->found(std::move(lost));
  if (probing() && (!measured_at_ || boot_now() - *measured_at_ > kFresh)) kept_look_->found("the probes cannot be asked");
  kept_meter_ = meter_;
  const auto& state = engine_.state();
  for (const auto& id : std::vector(hold->keeps)) {
    const auto& step = state.plan.steps[state.plan.find(id)];
    auto* host = host_of(step.host);
    if (host == nullptr || !host->link || !host->adopted) {
      CHECK_OK(kept_answered(look, id, retry(fmt::format("the agent on {} cannot be asked", step.host))));
      continue;
    }
    request(*host,
            {{"type", "call"}, {"move", state.plan.move}, {"step", step.id}, {"epoch", state.epoch}, {"mover", step.mover}, {"verb", "observe"},
             {"desired", step.desired}},
            kMeterLimit.count(), [this, look, id](const Result<Json>& result) { return kept_answered(look, id, result); });
  }
  return {};
}

Result<> Controller::kept_answered(std::uint64_t look, const std::string& step, const Result<Json>& result) {
  if (!kept_look_ || look != kept_looks_) return {};
  kept_look_->answered(step, result);
  if (!kept_look_->complete()) return {};
  const auto done = *std::exchange(kept_look_, std::nullopt);
  return dispatch(Kept{done.hold(), done.why()});
}

// The operator's word as a file: made while the gate waits, and used once. One from before says nothing about this time.
Result<> Controller::look_for_word() {
  const auto phase = engine_.awaited_word();
  if (phase.empty()) return {};
  const auto file = options_.directory / ("confirm-" + phase);
  struct stat seen {};
  if (::stat(file.c_str(), &seen) != 0) return {};
  const auto& state = engine_.state();
  const auto since = state.steps[state.plan.find("confirm-" + phase)].first_ms;
  const auto made = seen.st_mtim.tv_sec * 1'000 + seen.st_mtim.tv_nsec / 1'000'000;
  CHECK_OK(remove_file_durably(file));
  if (made >= since) return dispatch(Confirmed{phase, fmt::format("{} (uid {})", file.string(), seen.st_uid)});
  if (options_.tell) options_.tell(fmt::format("          {:<8} {} is older than the gate and does not count; it was removed", "move", file.string()));
  return {};
}

// The manifest's window, as tuned.
std::optional<Window> Controller::window() const {
  auto window = options_.manifest.rules.window;
  if (window && engine_.state().window_to_minute) window->to_minute = *engine_.state().window_to_minute;
  return window;
}

Result<Json> Controller::tune(const std::string& setting, const std::string& by) {
  const auto wanted = TRY(tuned_manifest(options_.manifest, setting));
  const auto settings = TRY(tuning(to_json(options_.manifest), wanted, engine_.state()));
  if (settings.empty()) return refused(fmt::format("'{}' is what holds already", setting));
  CHECK_OK(dispatch(Tuned{setting, by, settings, {}}));
  options_.manifest = wanted;
  for (auto& [service, guard] : guards_) {
    const auto spec = std::ranges::find(engine_.state().plan.guards, service, &GuardSpec::service);
    if (spec != engine_.state().plan.guards.end()) guard.set_limits(spec->limits);
  }
  return Json{{"accepted", setting}};
}

// Nothing measured is unknown, not nothing; and what was measured before the last effect ended says nothing about it.
Result<> Controller::tell_facts() {
  Facts facts;
  if (const auto window = this->window()) {
    const auto now = wall_now_ms();
    const auto opening = window_opening(*window, now);
    facts.window_open = opening && *opening && (*opening)->opens_ms <= now;
    facts.window_left_ms = facts.window_open ? (*opening)->closes_ms - now : 0;
  }
  if (!probing()) return dispatch(facts);
  if (!measured_at_ || boot_now() - *measured_at_ > kFresh) return dispatch(NoFacts{});
  if (*measured_at_ < effect_ended_at_) return {};
  for (const auto& service : meter_.value("services", Json::array())) {
    facts.downtime_ms[get_string_or(service, "name", "")] = get_int_or(service.value("downtime_ms", Json::object()), "upper", 0);
  }
  return dispatch(facts);
}

// Begins a look where one is due, and where the engine goes by it: each period, and at once after an effect has ended.
// Agents that are only just being reached are waited for a little before they count as an obstacle.
Result<> Controller::look_back() {
  if (!engine_.asks_for_way_back() || !look_back_.open.empty()) return {};
  const bool stale = look_back_.began < effect_ended_at_;
  if (!stale && look_back_.round > 0 && boot_now() - look_back_.began < kLookBack) return {};
  const auto questions = undo_questions(engine_.state());
  const bool patient = boot_now() - look_back_.told < kLookBackLimit;
  const auto ready = [&](const auto& one) {
    const auto* host = host_of(one.first);
    return host != nullptr && host->link && host->announced;
  };
  if (patient && !std::ranges::all_of(questions, ready)) return {};
  ++look_back_.round;
  look_back_.epoch = engine_.state().epoch;
  look_back_.began = boot_now();
  look_back_.answers.clear();
  for (const auto& question : questions) look_back_.open.insert(question.first);
  const auto& state = engine_.state();
  const auto round = look_back_.round;
  for (const auto& question : questions) {
    const auto name = question.first;
    if (!ready(question)) {
      const auto why = retry("it cannot be reached").error();
      post([this, round, name, why] { return looked_back(round, name, std::unexpected(why)); });
      continue;
    }
    const Json message{{"type", "observe_undo"}, {"move", state.plan.move}, {"epoch", state.epoch}, {"steps", question.second}};
    request(*host_of(name), message, kLookBackLimit.count(),
            [this, round, name](const Result<Json>& result) { return looked_back(round, name, result); });
  }
  return questions.empty() ? looked_back(round, "", Json::object()) : Result<>();
}

// What an effect has ended meanwhile makes it worthless, and an answer that was only interrupted says nothing.
Result<> Controller::looked_back(std::uint64_t round, const std::string& host, const Result<Json>& result) {
  if (round != look_back_.round) return {};
  if (!result && result.error().kind == ErrorKind::fenced && look_back_.epoch == engine_.state().epoch)
    return with_context(result.error(), fmt::format("agent on {}", host));
  look_back_.open.erase(host);
  if (!host.empty()) look_back_.answers.insert_or_assign(host, result);
  if (!look_back_.open.empty() || look_back_.began < effect_ended_at_ || !engine_.asks_for_way_back()) return {};
  const bool whole = std::ranges::all_of(look_back_.answers, [](const auto& one) { return one.second.has_value(); });
  if (!whole && boot_now() - look_back_.told < kLookBackLimit) return {};
  look_back_.told = boot_now();
  return dispatch(going_back(engine_.state(), look_back_.answers));
}

Json Controller::status() {
  auto out = status_json(engine_, meter_);
  out["stragglers"] = stragglers_.value("sources", Json::array());
  Json trouble = Json::object();
  for (const auto& host : hosts_) {
    std::lock_guard lock(host->mutex);
    if (!host->trouble.empty()) trouble[host->target.host] = host->trouble;
  }
  out["unreachable"] = std::move(trouble);
  if (const auto phase = engine_.awaited_word(); !phase.empty())
    out["waiting"] = fmt::format("{}, or the file {}", get_string_or(out, "waiting", ""), (options_.directory / ("confirm-" + phase)).string());
  if (const auto window = this->window()) {
    if (const auto view = view_window(*window, engine_.state(), wall_now_ms())) out["window"] = to_json(*view);
  }
  return out;
}

void Controller::write_status() {
  // For readers without a controller; nothing depends on it.
  if (auto saved = write_file_durably(options_.directory / "status.json", status().dump(-1, ' ', false, Json::error_handler_t::replace)); !saved) {
    log_warn("controller", "{}", saved.error().text());
  }
}

Json status_json(const Engine& engine, const Json& meter) {
  const auto& state = engine.state();
  Json steps = Json::array();
  std::size_t done = 0;
  std::string phase;
  for (std::size_t i = 0; i < state.steps.size(); ++i) {
    if (state.steps[i].progress == Progress::done) ++done;
    if (phase.empty() && state.steps[i].progress != Progress::done) phase = state.plan.steps[i].phase;
  }
  Json out{{"schema", "midstream.status/1"}, {"move", state.plan.move}, {"goal", to_string(state.goal)}, {"phase", phase}, {"epoch", state.epoch},
           {"steps_done", done}, {"steps", state.steps.size()}, {"complete", state.complete()}, {"paused", state.paused},
           {"waiting", engine.waiting()}, {"can_go_back", !state.past_return() && (!state.way_back || state.way_back->possible)},
           {"going_back", way_back_json(state)}, {"past_return", state.past_return()}, {"services", meter.value("services", Json::array())},
           {"budgets", state.plan.budgets}, {"guard", Json::array()}};
  for (const auto& spec : state.plan.guards) {
    const auto said = engine.judgements().find(spec.service);
    if (said != engine.judgements().end()) {
      out["guard"].push_back({{"service", spec.service}, {"verdict", to_string(said->second.verdict)}, {"words", said->second.words}});
      continue;
    }
    const auto last = std::ranges::find(state.verdict_records.rbegin(), state.verdict_records.rend(), Json(spec.service), [](const Json& one) { return one["service"]; });
    if (last == state.verdict_records.rend()) continue;
    out["guard"].push_back({{"service", spec.service}, {"verdict", (*last)["verdict"]}, {"words", (*last)["words"]}, {"at", format_wall(get_int_or(*last, "at", 0))}});
  }
  if (state.stopped) out["stopped"] = {{"step", state.stopped_step}, {"error", to_json(*state.stopped)}};
  return out;
}

}  // namespace midstream
