#include "control/agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <atomic>

#include "sys/file.h"
#include "sys/log.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream {

namespace {

constexpr Millis kForever{365ll * 86'400'000};
constexpr Millis kReplyLimit{10'000};

Result<Fd> take_lock(const std::filesystem::path& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return errno_failure(fmt::format("cannot open {}", path.string()), errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return refused("another agent of this move runs on this host");
  return fd;
}

Result<TlsIdentity> load_or_make_identity(const std::filesystem::path& state, const std::string& name) {
  const auto key = state / "key.pem";
  const auto certificate = state / "certificate.pem";
  // The certificate is written last, so it is there only with its key.
  if (std::filesystem::exists(certificate)) return load_tls_identity(TRY(read_file(key)), TRY(read_file(certificate)));
  auto identity = TRY(make_tls_identity(name));
  CHECK_OK(write_file_durably(key, identity.key_pem, 0600));
  CHECK_OK(write_file_durably(certificate, identity.certificate_pem, 0600));
  return identity;
}

Result<Json> load_saved(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json{{"epoch", 0}, {"peers", Json::object()}, {"port", 0}};
  return parse_json(TRY(read_file(path)));
}

Json reply_to(const Json& request, const Result<Json>& result) {
  Json reply{{"type", "reply"}, {"id", request.value("id", Json())}, {"ok", result.has_value()}};
  if (result) {
    reply["result"] = *result;
  } else {
    reply["error"] = to_json(result.error());
  }
  return reply;
}

}  // namespace

struct Agent::Link {
  std::unique_ptr<Stream> stream;
  std::mutex write_mutex;

  void reply(const Json& message) {
    std::lock_guard lock(write_mutex);
    // A controller that went away learns the outcome by observing.
    if (auto sent = write_message(*stream, message, Deadline::in(kReplyLimit), {}); !sent) stream->shut();
  }
};

struct Agent::Worker {
  std::atomic<bool> done = false;
  std::jthread thread;
};

Agent::Agent(AgentConfig config, std::vector<std::unique_ptr<Mover>> movers, Fd lock, TlsIdentity identity, Json saved)
    : config_(std::move(config)),
      movers_(std::move(movers)),
      lock_(std::move(lock)),
      identity_(std::move(identity)),
      saved_(std::move(saved)),
      commands_(static_cast<std::uint64_t>(get_int_or(saved_, "epoch", 0))),
      calls_(config_.state),
      peers_(config_.host, identity_) {
  peers_.on_higher_epoch([this](std::uint64_t epoch, Deadline deadline) { return raise(epoch, deadline); });
}

Agent::~Agent() {
  stop_.request_stop();
  commands_.end();
  std::vector<std::unique_ptr<Worker>> last;
  {
    std::lock_guard lock(threads_mutex_);
    last.swap(workers_);  // nothing is spawned any more: stop_ is set
  }
  last.clear();
  movers_.clear();
}

Result<std::unique_ptr<Agent>> Agent::open(AgentConfig config, std::vector<std::unique_ptr<Mover>> movers) {
  CHECK_OK(make_directories(config.state));
  auto lock = TRY(take_lock(config.state / "lock"));
  CHECK_OK(write_file_durably(config.state / "pid", std::to_string(::getpid()), 0600));
  auto identity = TRY(load_or_make_identity(config.state, config.host));
  auto saved = TRY(load_saved(config.state / "agent.json"));
  std::unique_ptr<Agent> agent(
      new Agent(std::move(config), std::move(movers), std::move(lock), std::move(identity), std::move(saved)));
  agent->peers_.set(TRY(peers_from_json(agent->saved_.value("peers", Json::object()))), agent->commands_.epoch());
  CHECK_OK(agent->bind());
  CHECK_OK(agent->start_movers());
  return agent;
}

// The data port is chosen once and kept over restarts, so that peers find us without the controller.
Result<> Agent::bind() {
  const auto wanted = static_cast<std::uint16_t>(get_int_or(saved_, "port", 0));
  data_listener_ = TRY(listen_tcp(config_.data_address, wanted));
  saved_["port"] = TRY(local_port(data_listener_.get()));
  CHECK_OK(persist(commands_.epoch()));
  CHECK_OK(make_directories(config_.socket.parent_path()));
  control_listener_ = TRY(listen_unix(config_.socket));
  return {};
}

Result<> Agent::persist(std::uint64_t epoch) {
  std::lock_guard lock(saved_mutex_);
  saved_["epoch"] = epoch;
  return write_file_durably(config_.state / "agent.json", saved_.dump(), 0600);
}

Mover* Agent::mover(std::string_view name) {
  for (const auto& one : movers_) {
    if (one->name() == name) return one.get();
  }
  return nullptr;
}

Context Agent::context(const Task& task, std::string_view mover, Deadline deadline, std::stop_token stop) {
  return Context{task, config_.host, config_.state / mover, peers_, deadline, std::move(stop)};
}

Result<> Agent::start_movers() {
  for (const auto& one : movers_) {
    CHECK_OK(make_directories(config_.state / one->name()));
    auto started = one->start(context(Task{config_.move, "", commands_.epoch()}, one->name(), Deadline::in(kForever), stop_.get_token()));
    // One mover's trouble must not keep the others from holding what they hold; its verbs will say what is wrong.
    if (!started) log_warn("agent", "mover {} could not go on: {}", one->name(), started.error().text());
  }
  return {};
}

void Agent::spawn(std::function<void(const std::stop_token&)> body) {
  std::lock_guard lock(threads_mutex_);
  if (stop_.stop_requested()) return;
  std::erase_if(workers_, [](const auto& worker) { return worker->done.load(); });
  auto worker = std::make_unique<Worker>();
  worker->thread = std::jthread([body = std::move(body), done = &worker->done, stop = stop_.get_token()] {
    body(stop);
    *done = true;
  });
  workers_.push_back(std::move(worker));
}

Result<> Agent::serve(const std::stop_token& stop) {
  const std::stop_callback forward(stop, [this] { stop_.request_stop(); });
  spawn([this](const std::stop_token& ended) {
    while (auto socket = accept_one(data_listener_.get(), ended)) {
      auto shared = std::make_shared<Fd>(std::move(*socket));
      spawn([this, shared](const std::stop_token& inner) { serve_peer(std::move(*shared), inner); });
    }
  });
  log_info("agent", "{} of move {} serves, epoch {}", config_.host, config_.move, commands_.epoch());
  while (true) {
    auto socket = accept_one(control_listener_.get(), stop);
    if (!socket && stop.stop_requested()) return {};
    if (!socket) return std::unexpected(socket.error());
    auto link = std::make_shared<Link>();
    link->stream = make_fd_stream(std::move(*socket));
    spawn([this, link](const std::stop_token& ended) { serve_link(link, ended); });
  }
}

// Requests are answered in the order in which they end, each by a thread of its own.
void Agent::serve_link(std::shared_ptr<Link> link, const std::stop_token& stop) {
  while (true) {
    auto request = read_message(*link->stream, Deadline::in(kForever), stop);
    if (!request) return;
    spawn([this, link, request = std::move(*request)](const std::stop_token&) { link->reply(reply_to(request, answer(request))); });
  }
}

Result<Json> Agent::answer(const Json& request) {
  const auto type = TRY(get_string(request, "type"));
  if (type == "hello") {
    if (TRY(get_string(request, "move")) != config_.move) return refused("this agent belongs to another move");
    std::lock_guard lock(saved_mutex_);
    return Json{{"version", 1}, {"host", config_.host}, {"fingerprint", identity_.fingerprint},
                {"address", config_.data_address}, {"port", saved_["port"]}, {"epoch", saved_["epoch"]},
                {"journal", get_string_or(saved_, "journal", "")}};
  }
  if (type == "adopt") return adopt(request);
  if (type == "keep_plan") return keep_plan(request);
  if (type == "recall") return recall();
  if (type == "call") return run_call(request);
  if (type == "observe_undo") return observe_undos(request);
  return refused(fmt::format("the agent knows no request '{}'", type));
}

Result<Json> Agent::adopt(const Json& request) {
  const auto epoch = static_cast<std::uint64_t>(TRY(get_int(request, "epoch")));
  const auto listed = TRY(get_object(request, "peers"));
  const auto journal = get_string_or(request, "journal", "");
  {
    std::lock_guard lock(saved_mutex_);
    const auto ours = get_string_or(saved_, "journal", "");
    const bool takes_over = request.contains("takes_over") && get_string_or(request, "takes_over", "") == ours;
    if (!ours.empty() && ours != journal && !takes_over) {
      return failure(ErrorKind::fenced, "this move is in the hands of a controller with another journal",
                     "go on with that one; where its journal is lost, `midstream run --adopt` takes the move over");
    }
    if (ours != journal && epoch <= commands_.epoch() && !ours.empty())
      return failure(ErrorKind::fenced, fmt::format("epoch {} is over: another controller was quicker to take over", epoch));
  }
  auto peers = TRY(peers_from_json(listed));
  CHECK_OK(commands_.adopt(epoch, Deadline::in(Millis(get_int_or(request, "deadline_ms", 30'000))), [&](std::uint64_t adopted) {
    {
      std::lock_guard lock(saved_mutex_);
      saved_["peers"] = listed;
      saved_["journal"] = journal;
    }
    return persist(adopted);
  }));
  {
    // The same epoch again brings peers that were not known the first time.
    std::lock_guard lock(saved_mutex_);
    if (saved_["peers"] != listed) {
      saved_["peers"] = listed;
      CHECK_OK(write_file_durably(config_.state / "agent.json", saved_.dump(), 0600));
    }
  }
  peers_.set(std::move(peers), epoch);
  log_info("agent", "epoch {} adopted", epoch);
  return Json{{"epoch", epoch}, {"plan", calls_.plan_hash()}};
}

// Before the first effect of a journal's controller here: without it nobody could say what the effects belong to.
Result<Json> Agent::keep_plan(const Json& request) {
  const auto admission = TRY(commands_.admit(static_cast<std::uint64_t>(TRY(get_int(request, "epoch")))));
  CHECK_OK(calls_.keep_plan(TRY(get_object(request, "record"))));
  return Json{{"plan", calls_.plan_hash()}};
}

Result<Json> Agent::recall() {
  auto out = TRY(calls_.recall());
  const std::lock_guard lock(saved_mutex_);
  out["epoch"] = saved_["epoch"];
  out["journal"] = get_string_or(saved_, "journal", "");
  return out;
}

namespace {

// Movers return their errors. What one throws all the same (a field of another type than it took for granted) is a bug,
// which ends the call and not the agent: in an agent that starts again and again, leases and following would end with it.
template <class Body>
auto no_throw(const std::string& mover, std::string_view verb, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::exception& thrown) {
    return failure(ErrorKind::corrupt, fmt::format("mover '{}' broke off in '{}': {}", mover, verb, thrown.what()),
                   "this is a bug of midstream's; keep the logs, and `rollback` or `run` again");
  }
}

Task task_of(const Json& request) {
  return Task{get_string_or(request, "move", ""), get_string_or(request, "step", ""),
              static_cast<std::uint64_t>(get_int_or(request, "epoch", 0))};
}
}  // namespace

Result<Json> Agent::run_call(const Json& request) {
  const auto task = task_of(request);
  if (task.move != config_.move) return refused("this agent belongs to another move");
  auto admission = TRY(commands_.admit(task.epoch));
  const auto name = TRY(get_string(request, "mover"));
  const auto verb = TRY(get_string(request, "verb"));
  const auto desired = TRY(get_object(request, "desired"));
  Mover* one = mover(name);
  if (one == nullptr) return refused(fmt::format("there is no mover '{}'", name));
  const auto asked = context(task, name, Deadline::in(Millis(TRY(get_int(request, "deadline_ms")))), admission.stop());
  if (verb == "observe") return no_throw(name, verb, [&] { return one->observe(asked, desired); });
  if (verb == "check") return no_throw(name, verb, [&] { return one->check(asked, desired); });
  if (verb != "apply" && verb != "undo") return refused(fmt::format("movers have no verb '{}'", verb));
  return make_effect(*one, request, asked, desired);
}

// That it begins is on this disk before it does, and how it ended before anybody is told.
Result<Json> Agent::make_effect(Mover& mover, const Json& request, const Context& asked, const Json& desired) {
  const auto& task = asked.task;
  const auto verb = TRY(get_string(request, "verb"));
  const auto number = static_cast<std::uint64_t>(get_int_or(request, "number", 0));
  log_info("agent", "{} {} {} (epoch {})", task.step, mover.name(), verb, task.epoch);
  if (auto kept = calls_.begin(task.epoch, number, task.step, verb); !kept)
    return with_context(retry(kept.error().text()).error(), "the agent cannot keep what it is about to do");
  auto result = no_throw(std::string(mover.name()), verb,
                         [&] { return verb == "apply" ? mover.apply(asked, desired) : mover.undo(asked, desired); });
  if (!result) log_warn("agent", "{} {} {} failed: {}", task.step, mover.name(), verb, result.error().text());
  // Where that cannot be kept the effect stands all the same: who adopts finds it begun, and looks.
  if (auto kept = calls_.end(task.epoch, number, result); !kept) log_warn("agent", "{}", kept.error().text());
  return result;
}

// One look after the other, up to the first that would not work.
Result<Json> Agent::observe_undos(const Json& request) {
  auto task = task_of(request);
  if (task.move != config_.move) return refused("this agent belongs to another move");
  auto admission = TRY(commands_.admit(task.epoch));
  const auto deadline = Deadline::in(Millis(TRY(get_int(request, "deadline_ms"))));
  Json answers = Json::object();
  for (const auto& one : request.value("steps", Json::array())) {
    task.step = TRY(get_string(one, "step"));
    const auto name = TRY(get_string(one, "mover"));
    Mover* asked = mover(name);
    if (asked == nullptr) return refused(fmt::format("there is no mover '{}'", name));
    const auto desired = TRY(get_object(one, "desired"));
    auto answer = no_throw(name, "observe_undo", [&] { return asked->observe_undo(context(task, name, deadline, admission.stop()), desired); });
    if (!answer && answer.error().kind == ErrorKind::cancelled) return answer;
    answers[task.step] = answer ? *answer : undo_outlook(answer.error().text());
    if (!get_bool_or(answers[task.step], "possible", false)) break;
  }
  return Json{{"steps", std::move(answers)}};
}

void Agent::serve_peer(Fd socket, const std::stop_token& stop) {
  const auto known = [this](std::string_view fingerprint) { return !peers_.host_of(fingerprint).empty(); };
  auto peer = tls_accept(std::move(socket), identity_, known, Deadline::in(Millis(5'000)), stop);
  if (!peer) {
    log_warn("agent", "a peer was not let in: {}", peer.error().text());
    return;
  }
  while (true) {
    auto request = read_message(*peer->stream, Deadline::in(Millis(30'000)), stop);
    if (!request) return;
    const auto name = get_string_or(*request, "mover", "");
    if (get_string_or(*request, "type", "") == "open") {
      Mover* one = mover(name);
      if (one == nullptr || get_string_or(*request, "move", "") != config_.move) return;
      const auto served = no_throw(name, "serve", [&] {
        return one->serve(context(task_of(*request), name, Deadline::in(kForever), stop), *peer->stream,
                          request->value("hello", Json::object()));
      });
      if (!served && !stop.stop_requested()) {
        log_warn("agent", "a stream of mover {} from {} ended: {}", name, peers_.host_of(peer->fingerprint), served.error().text());
      }
      return;
    }
    const auto reply = reply_to(*request, peer_call(*request));
    if (!write_message(*peer->stream, reply, Deadline::in(kReplyLimit), stop)) return;
  }
}

// A pinned peer has adopted `epoch`, so a controller of this move has begun it. That controller adopts it here too when it
// comes back, with the peers that it knows.
Result<std::uint64_t> Agent::raise(std::uint64_t epoch, Deadline deadline) {
  if (epoch > commands_.epoch()) {
    CHECK_OK(commands_.adopt(epoch, deadline, [this](std::uint64_t adopted) { return persist(adopted); }));
    peers_.lift(epoch);
    log_info("agent", "epoch {} adopted, as a peer has", epoch);
  }
  return commands_.epoch();
}

Result<Json> Agent::peer_call(const Json& request) {
  if (get_string_or(request, "type", "") == "epoch") {
    const auto epoch = TRY(get_int(request, "epoch"));
    if (epoch < 0) return corrupt("an epoch is not negative");
    const auto deadline = Deadline::in(Millis(TRY(get_int(request, "deadline_ms"))));
    return Json{{"epoch", TRY(raise(static_cast<std::uint64_t>(epoch), deadline))}};
  }
  const auto task = task_of(request);
  if (task.move != config_.move) return refused("this agent belongs to another move");
  auto admission = TRY(commands_.admit(task.epoch));
  const auto name = TRY(get_string(request, "mover"));
  Mover* one = mover(name);
  if (one == nullptr) return refused(fmt::format("there is no mover '{}'", name));
  const auto asked = context(task, name, Deadline::in(Millis(TRY(get_int(request, "deadline_ms")))), admission.stop());
  const auto verb = TRY(get_string(request, "verb"));
  const auto args = TRY(get_object(request, "args"));
  return no_throw(name, verb, [&] { return one->peer(asked, verb, args); });
}

}  // namespace midstream
