#include "movers/addresses/addresses.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "base/text.h"
#include "movers/addresses/checks.h"
#include "movers/addresses/handover.h"
#include "movers/keeper.h"
#include "movers/addresses/local_side.h"
#include "movers/addresses/pool.h"
#include "movers/addresses/proc.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream {
namespace {

constexpr std::array<Millis, 4> kAnnounceAgain{Millis{1'100}, Millis{2'200}, Millis{3'300}, Millis{4'400}};
constexpr Millis kPeerPatience{5'000};
constexpr Millis kRecoverAgain{2'000};
constexpr Millis kLeaseLock{100};

// The device of ours that is in the address's subnet.
std::string device_for(const IpAddress& address, const std::vector<AddressEntry>& entries,
                       const std::vector<Link>& links) {
  for (const AddressEntry& entry : entries)
    if (entry.prefix < static_cast<int>(address.size()) * 8 && same_subnet(entry.ip, address, entry.prefix))
      for (const Link& link : links)
        if (link.index == entry.index) return link.name;
  return "";
}

Result<PoolRelease> pool_of(const Context& context, const Json& desired) {
  auto pool = TRY(parse_pool_release(desired));
  if (pool.host != context.host) return refused(fmt::format("addresses: this step belongs on {}", pool.host));
  return pool;
}

Result<Title> title_of(const Ask& ask) {
  return title_from_json(TRY(get_object(TRY(ask("status", Json::object())), "title")));
}

class AddressesMover final : public Mover {
 public:
  explicit AddressesMover(AddressesOptions options) : options_(std::move(options)) {}

  std::string_view name() const override { return "addresses"; }
  Result<> start(const Context& base) override;
  Result<Json> observe(const Context& context, const Json& desired) override;
  Result<Json> apply(const Context& context, const Json& desired) override;
  Result<Json> undo(const Context& context, const Json& desired) override;
  Result<Json> observe_undo(const Context& context, const Json& desired) override;
  Result<Json> check(const Context& context, const Json& desired) override;
  std::string describe(const Json& desired) const override;
  Result<Json> peer(const Context& context, std::string_view verb, const Json& args) override;

 private:
  using Lock = std::unique_lock<std::timed_mutex>;
  Result<Lock> lock_set(const AddressSet& set, Deadline deadline);
  LocalSide local(const Context& context, const AddressSet& set) {
    return LocalSide(set, context.host, context.state, options_, context.stop);
  }
  // One verb on this host; the set's lock is held by the caller where the verb changes anything.
  Result<Json> act(const Context& context, const AddressSet& set, std::string_view verb, const Json& args);
  Ask ask_here(const Context& context, const AddressSet& set);
  Ask ask_host(const Context& context, const AddressSet& set, const std::string& host);
  Ask ask_witness(const Context& context, const AddressSet& set, const std::string& giver);
  Handover handover(const Context& context, const AddressSet& set, bool back);
  Result<Json> who(const Context& context, const Json& args);
  Result<Json> own_back(const Context& context, const AddressSet& set);
  Result<> recover_set(const Context& base, const std::filesystem::path& file);
  // Background: what follows a take or a yield.
  void follow_up(const AddressSet& set, const Task& task, std::string_view verb, std::uint64_t turn);
  void announce_again(const AddressSet& set, std::uint64_t turn);
  bool end_lease(const AddressSet& set, const Task& task, std::uint64_t turn);

  AddressesOptions options_;
  std::mutex mutex_;  // guards locks_, notes_, base_
  std::map<std::string, std::shared_ptr<std::timed_mutex>> locks_;
  std::map<std::string, std::string> notes_;  // what recovery has to tell the operator, by set
  std::optional<Context> base_;
  Keeper keeper_;  // last: its thread uses the rest
};

Result<AddressesMover::Lock> AddressesMover::lock_set(const AddressSet& set, Deadline deadline) {
  std::shared_ptr<std::timed_mutex> mutex;
  {
    const std::lock_guard guard(mutex_);
    auto& slot = locks_[set.id];
    if (!slot) slot = std::make_shared<std::timed_mutex>();  // never removed while the mover lives
    mutex = slot;
  }
  Lock lock(*mutex, std::defer_lock);
  if (!lock.try_lock_for(deadline.remaining())) return retry("another request is at work on the same addresses");
  return lock;
}

Result<Json> AddressesMover::act(const Context& context, const AddressSet& set, std::string_view verb,
                                 const Json& args) {
  if (!set.stays_with(context.host)) return refused(fmt::format("{} is neither side of these addresses", context.host));
  LocalSide side = local(context, set);
  const auto turn = static_cast<std::uint64_t>(get_int_or(args, "turn", 0));
  if (verb == "status") return side.status(get_bool_or(args, "full", false));
  if (verb == "who") return who(context, {{"addresses", set.raw["addresses"]}, {"dev", side.me().dev}});
  if (verb == "listeners") {
    Json ports = Json::object();
    for (const auto& [address, numbers] : TRY(listening_ports(set.addresses))) ports[to_string(address)] = numbers;
    return Json{{"ports", ports}};
  }
  if (verb == "ready") return side.ready(context.task);
  if (verb == "persist") return side.persist();
  if (verb == "renounce") return side.renounce(turn, context.task);
  if (verb == "keep") return side.keep(turn, context.task);
  Result<Json> done = refused(fmt::format("mover addresses answers no request '{}'", printable(verb)));
  if (verb == "prepare") done = side.prepare(turn, context.task);
  if (verb == "release") done = side.release(turn, context.task);
  if (verb == "take") done = side.take(turn, get_bool_or(args, "force", false), context.task);
  if (done) follow_up(set, context.task, verb, turn);
  return done;
}

Result<Json> AddressesMover::peer(const Context& context, std::string_view verb, const Json& args) {
  if (verb == "who" && !args.contains("set")) return who(context, args);
  const AddressSet set = TRY(parse_address_set(TRY(get_object(args, "set"))));
  if (verb == "status" || verb == "who" || verb == "listeners") return act(context, set, verb, args);
  const Lock lock = TRY(lock_set(set, context.deadline));
  return act(context, set, verb, args);
}

Ask AddressesMover::ask_here(const Context& context, const AddressSet& set) {
  return [this, &context, &set](std::string_view verb, const Json& args) { return act(context, set, verb, args); };
}

Ask AddressesMover::ask_host(const Context& context, const AddressSet& set, const std::string& host) {
  if (host == context.host) return ask_here(context, set);
  return [&context, &set, host](std::string_view verb, Json args) {
    args["set"] = set.raw;
    return context.peers.call(host, "addresses", verb, args, context.task, context.deadline.sooner(kPeerPatience * 4),
                              context.stop);
  };
}

// `who` on the verifier, else on the giver: the taker does not hear itself, so it cannot see that it is answered.
Ask AddressesMover::ask_witness(const Context& context, const AddressSet& set, const std::string& giver) {
  if (set.verifier.empty()) return ask_host(context, set, giver);
  return [&context, &set](std::string_view verb, const Json& args) {
    return context.peers.call(set.verifier, "addresses", verb, args, context.task,
                              context.deadline.sooner(kPeerPatience), context.stop);
  };
}

Result<Json> AddressesMover::who(const Context& context, const Json& args) {
  Netlink netlink = TRY(Netlink::open());
  const std::vector<AddressEntry> entries = TRY(netlink.addresses());
  const std::vector<Link> links = TRY(netlink.links());
  std::map<std::string, std::vector<IpAddress>> by_device;
  for (const std::string& text : TRY(get_strings(args, "addresses"))) {
    const auto address = parse_ip(text);
    if (!address) return corrupt(fmt::format("'{}' is not a numeric address", printable(text)));
    const std::string dev = get_string_or(args, "dev", device_for(*address, entries, links));
    if (dev.empty())
      return refused(fmt::format("{} has no device in the subnet of {}", context.host, text), "name another verifier");
    by_device[dev].push_back(*address);
  }
  Json answers = Json::object();
  for (const auto& [dev, addresses] : by_device) {
    Wire wire = TRY(Wire::open(dev));
    std::map<std::string, std::set<std::string>> heard;
    for (const Claim& claim : TRY(wire.ask(addresses, Asking{}, context.stop)))
      heard[to_string(claim.address)].insert(to_string(claim.mac));
    for (const auto& [address, macs] : heard) answers[address] = macs;
  }
  return Json{{"answers", answers}};
}

Handover AddressesMover::handover(const Context& context, const AddressSet& set, bool back) {
  const std::string& giver = back ? set.to.host : set.from.host;
  const std::string& taker = back ? set.from.host : set.to.host;
  return {set,
          giver,
          taker,
          ask_host(context, set, giver),
          ask_host(context, set, taker),
          ask_witness(context, set, giver),
          options_.checkpoint,
          context.deadline,
          context.stop};
}

Result<Json> AddressesMover::apply(const Context& context, const Json& desired) {
  const std::string kind = TRY(get_string(desired, "kind"));
  if (kind == "release") return release_pool(TRY(pool_of(context, desired)), options_.root);
  const AddressSet set = TRY(parse_address_set(desired));
  if (context.host != set.to.host) return refused(fmt::format("addresses: this step belongs on {}", set.to.host));
  const Lock lock = TRY(lock_set(set, context.deadline));
  if (kind == "own") return hand_over(handover(context, set, false));
  if (kind != "stage") return refused(fmt::format("addresses: there is no kind '{}'", printable(kind)));
  CHECK_OK(local(context, set).stage());
  return check_listeners(set, ask_host(context, set, set.from.host), ask_here(context, set));
}

// The mirrored handover, and the addresses staged here again where they were.
Result<Json> AddressesMover::own_back(const Context& context, const AddressSet& set) {
  const Ask old_side = ask_host(context, set, set.from.host);
  LocalSide here = local(context, set);
  const Title ours = TRY(here.title());
  const Title title = TRY(title_of(old_side));
  Json done = Json::object();
  const bool never_left = title.holding == Holding::owner && title.turn == 0 && ours.holding != Holding::owner;
  if (!never_left) done = TRY(hand_over(handover(context, set, true)));
  CHECK_OK(here.restage());
  return done;
}

Result<Json> AddressesMover::undo(const Context& context, const Json& desired) {
  const std::string kind = TRY(get_string(desired, "kind"));
  if (kind == "release") return refused("the pool was given back", "configure its addresses by hand if they are still yours");
  const AddressSet set = TRY(parse_address_set(desired));
  if (context.host != set.to.host) return refused(fmt::format("addresses: this step belongs on {}", set.to.host));
  const Lock lock = TRY(lock_set(set, context.deadline));
  if (kind == "own") return own_back(context, set);
  if (kind != "stage") return refused(fmt::format("addresses: there is no kind '{}'", printable(kind)));
  CHECK_OK(local(context, set).unstage(true));
  return Json::object();
}

Result<Json> AddressesMover::observe(const Context& context, const Json& desired) {
  const std::string kind = TRY(get_string(desired, "kind"));
  if (kind == "release") return observe_pool(TRY(pool_of(context, desired)), options_.root);
  const AddressSet set = TRY(parse_address_set(desired));
  const Json here = TRY(act(context, set, "status", {{"full", true}}));
  const Title ours = TRY(title_from_json(TRY(get_object(here, "title"))));
  if (kind == "stage") {
    const bool staged = get_bool_or(here, "staged", false) || ours.holding == Holding::owner;
    Json result = observation(staged, staged ? "" : "the addresses are not staged");
    result["staged"] = staged;
    return result;
  }
  if (kind != "own") return refused(fmt::format("addresses: there is no kind '{}'", printable(kind)));
  const auto there = ask_host(context, set, set.from.host)("status", Json::object());
  const auto has = [](const Json& status, const std::string& address) {
    const auto list = get_strings(status, "configured").value_or(std::vector<std::string>{});
    return std::ranges::find(list, address) != list.end();
  };
  Json owners = Json::object();
  std::size_t on_new = 0;
  for (const IpAddress& address : set.addresses) {
    const std::string text = to_string(address);
    const bool on_to = has(here, text);
    const bool on_from = there && has(*there, text);
    owners[text] = on_to ? (on_from ? "both" : "new") : (on_from ? "old" : there ? "none" : "unknown");
    on_new += on_to && !on_from;
  }
  const bool persisted = TRY(get_strings(here, "persisted")).size() == set.addresses.size();
  const bool reached = ours.holding == Holding::owner && on_new == set.addresses.size() && persisted;
  std::string why =
      reached ? "" : fmt::format("{} of {} addresses are on {} alone", on_new, set.addresses.size(), set.to.host);
  if (!there)
    why += fmt::format("{}{} cannot be asked: {}", why.empty() ? "" : "; ", set.from.host, there.error().text());
  {
    const std::lock_guard guard(mutex_);
    if (const auto note = notes_.find(set.id); note != notes_.end() && !note->second.empty())
      why += (why.empty() ? "" : "; ") + note->second;
  }
  Json result = observation(reached, why);
  result["owner"] = owners;
  result["held"] = std::ranges::any_of(owners, [](const Json& owner) { return owner == "none" || owner == "unknown"; });
  result["titles"] = {{set.to.host, here["title"]}, {set.from.host, there ? (*there)["title"] : Json()}};
  return result;
}

// Handing them back needs old there, with a title that has not moved on behind our back.
Result<Json> AddressesMover::observe_undo(const Context& context, const Json& desired) {
  const AddressSet set = TRY(parse_address_set(desired));
  if (get_string_or(desired, "kind", "") != "own") return undo_outlook("");
  const auto there = title_of(ask_host(context, set, set.from.host));
  if (!there) return undo_outlook(fmt::format("{} cannot be asked: {}", set.from.host, there.error().text()));
  const Title ours = TRY(local(context, set).title());
  if (ours.holding == Holding::owner && there->holding != Holding::owner) return undo_outlook("");
  return undo_outlook(fmt::format("{} is {} of the addresses and {} is {}", context.host, to_string(ours.holding),
                                  set.from.host, to_string(there->holding)));
}

Result<Json> AddressesMover::check(const Context& context, const Json& desired) {
  if (get_string_or(desired, "kind", "") == "release") return check_pool(TRY(pool_of(context, desired)), options_.root);
  const AddressSet set = TRY(parse_address_set(desired));
  const bool staging = get_string_or(desired, "kind", "") == "stage";
  return check_addresses(set, ask_host(context, set, set.from.host), ask_host(context, set, set.to.host),
                         ask_witness(context, set, set.from.host), ask_here(context, set), staging);
}

std::string AddressesMover::describe(const Json& desired) const {
  if (get_string_or(desired, "kind", "") == "release") {
    const auto pool = parse_pool_release(desired);
    return pool ? fmt::format("take {} of the pool off {}", some_of(pool->addresses), pool->host) : "addresses: " + pool.error().text();
  }
  const auto set = parse_address_set(desired);
  if (!set) return "addresses: " + set.error().text();
  if (get_string_or(desired, "kind", "") == "stage")
    return fmt::format("stage {} on {} without answering for them", some_of(set->addresses), set->to.host);
  return fmt::format("move {} from {} to {}", some_of(set->addresses), set->from.host, set->to.host);
}

Result<> AddressesMover::start(const Context& base) {
  {
    const std::lock_guard guard(mutex_);
    base_.emplace(base);
  }
  keeper_.start(base.stop);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(base.state, error)) {
    const bool stage = entry.path().extension() == ".stage";
    if (entry.path().extension() != ".title" && !stage) continue;
    if (stage && std::filesystem::exists(std::filesystem::path(entry.path()).replace_extension(".title"), error))
      continue;
    const auto done = recover_set(base, entry.path());
    if (done) continue;
    // One set's trouble must not keep the agent from serving the others: observe shows it. At boot it may be
    // over soon (the device comes up, another host gives the address up).
    log_warn("addresses", "{}: {}", entry.path().string(), done.error().text());
    keeper_.add(kRecoverAgain, kRecoverAgain,
                [this, base, file = entry.path()] { return recover_set(base, file).has_value(); });
  }
  return {};
}

Result<> AddressesMover::recover_set(const Context& base, const std::filesystem::path& file) {
  const Json record = TRY(parse_json(TRY(read_file(file))));
  const AddressSet set = TRY(parse_address_set(TRY(get_object(record, "desired"))));
  LocalSide side = local(base, set);
  const Title title = TRY(side.title());
  const Task task{get_string_or(record, "move", ""), get_string_or(record, "step", ""), title.epoch};
  const Lock lock = TRY(lock_set(set, Deadline::in(kPeerPatience)));
  const auto note = side.recover(task);
  const std::lock_guard guard(mutex_);
  notes_[set.id] = note ? *note : note.error().text();
  if (!note) return std::unexpected(note.error());
  const Title now = TRY(side.title());
  if (now.holding == Holding::owner) announce_again(set, now.turn);
  // After a restart a lease counts as expired.
  if (now.holding == Holding::yielded)
    keeper_.add(Millis{0}, Millis{2'000}, [this, set, task, turn = now.turn] { return end_lease(set, task, turn); });
  return {};
}

void AddressesMover::follow_up(const AddressSet& set, const Task& task, std::string_view verb, std::uint64_t turn) {
  if (verb == "take") return announce_again(set, turn);
  keeper_.add(options_.lease, Millis{2'000}, [this, set, task, turn] { return end_lease(set, task, turn); });
}

void AddressesMover::announce_again(const AddressSet& set, std::uint64_t turn) {
  for (const Millis after : kAnnounceAgain) {
    keeper_.add(after, Millis{0}, [this, set, turn] {
      const Context base = [&] {
        const std::lock_guard guard(mutex_);
        return *base_;
      }();
      const auto lock = lock_set(set, Deadline::in(Millis{200}));
      if (lock) (void)local(base, set).announce_again(turn);  // the next round says it again
      return true;
    });
  }
}

// The dead-man's act of the side that gave (P8 within P2): from `yielding` it goes back alone; from `yielded`
// only after the other side has durably stood down. True: nothing is left to be done.
bool AddressesMover::end_lease(const AddressSet& set, const Task& task, std::uint64_t turn) {
  Context base = [&] {
    const std::lock_guard guard(mutex_);
    return *base_;
  }();
  base.task = task;
  base.deadline = Deadline::in(kPeerPatience * 2);
  LocalSide side = local(base, set);
  // The host that runs handovers keeps them out for the whole act; the other must not, for it is asked by one.
  Result<Lock> lock{Lock()};
  if (base.host == set.to.host) lock = lock_set(set, Deadline::in(kLeaseLock));
  if (!lock) return false;
  const auto mine = side.title();
  if (!mine) return false;
  base.task.epoch = mine->epoch;
  if (mine->turn != turn || (mine->holding != Holding::yielding && mine->holding != Holding::yielded)) return true;
  if (mine->holding == Holding::yielding) {
    if (!lock->owns_lock()) lock = lock_set(set, base.deadline);
    return lock && side.keep(turn, base.task).has_value();
  }
  const std::string& other_host = set.other(base.host).host;
  if (!base.peers.level_epochs(other_host, base.deadline, base.stop)) return false;
  const Ask other = ask_host(base, set, other_host);
  const auto title = title_of(other);
  if (!title) return false;  // nobody can know: held
  if (title->holding == Holding::owner && title->turn >= turn) return true;
  const std::uint64_t next = std::max(turn, title->turn) + 1;
  if (!other("renounce", {{"turn", next}})) return false;
  if (!lock->owns_lock()) lock = lock_set(set, base.deadline);
  const auto taken =
      lock ? act(base, set, "take", {{"turn", next}, {"force", true}}) : Result<Json>(std::unexpected(lock.error()));
  if (!taken) return false;
  log_warn("addresses", "{} of move {} were with nobody: {} has them back", some_of(set.addresses), task.move,
           base.host);
  return side.persist().has_value();
}

}  // namespace

std::unique_ptr<Mover> make_addresses_mover(AddressesOptions options) {
  return std::make_unique<AddressesMover>(std::move(options));
}

}  // namespace midstream
