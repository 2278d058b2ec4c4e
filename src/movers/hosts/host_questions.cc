#include "movers/hosts/host_questions.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/hosts/inventory.h"
#include "movers/hosts/mail_stores.h"
#include "movers/hosts/size.h"
#include "movers/hosts/survey.h"

namespace midstream {

namespace {

constexpr Millis kScan{10'000};
constexpr Millis kAsk{15'000};

Result<std::string> data_directory(const HostsOptions& options, int port, Deadline deadline) {
  for (const auto& one : TRY(survey_host(options.root, deadline)).databases) {
    if (one.kind == "PostgreSQL" && one.port == port) return one.path;
  }
  return refused(fmt::format("no PostgreSQL runs on port {}", port));
}

// What moves, with the place where it is or will be: {"what", and "path", "port" or "mail"}.
Result<std::string> place_of(const HostsOptions& options, const Json& one, Deadline deadline) {
  if (one.contains("path")) return get_string(one, "path");
  if (get_bool_or(one, "mail", false)) {
    auto root = TRY(mail_stores(deadline)).root();
    if (root.empty()) return refused("Dovecot names no homes of users");
    return root;
  }
  return data_directory(options, static_cast<int>(TRY(get_int(one, "port"))), deadline);
}

Result<Json> own_size(const HostsOptions& options, const Json& things, Deadline deadline) {
  const HostSize size = TRY(size_of_host());
  Json uses = Json::array();
  for (const auto& one : things) {
    const Use use = TRY(use_of(TRY(get_string(one, "what")), TRY(place_of(options, one, deadline)), deadline));
    uses.push_back({{"what", use.what}, {"bytes", use.bytes}, {"inodes", use.inodes}, {"bound", use.bound}});
  }
  return Json{{"memory", size.memory}, {"cpus", size.cpus}, {"uses", uses}};
}

Result<std::vector<Landing>> landings_of(const HostsOptions& options, const Json& things, const Json& uses,
                                         Deadline deadline) {
  std::vector<Landing> landings;
  for (std::size_t i = 0; i < things.size() && i < uses.size(); ++i) {
    const auto place = TRY(place_of(options, things[i], deadline));
    const Use use{TRY(get_string(uses[i], "what")), static_cast<std::uint64_t>(TRY(get_int(uses[i], "bytes"))),
                  static_cast<std::uint64_t>(TRY(get_int(uses[i], "inodes"))), TRY(get_bool(uses[i], "bound"))};
    landings.push_back({use, TRY(room_at(place))});
  }
  return landings;
}

}  // namespace

Result<Json> check_inventory(const HostsOptions& options, const Context& context, const Json& desired) {
  Cover cover = TRY(parse_cover(desired));
  if (!cover.mail.empty()) {
    // Where Dovecot cannot be asked, mail's own check says so, and its trees are nobody's here.
    const auto stores = mail_stores(context.deadline.sooner(kScan)).value_or(MailStores());
    for (const auto& home : stores.homes) cover.trees.push_back({home, cover.mail});
    if (!stores.queue.empty()) cover.trees.push_back({stores.queue, cover.mail});
  }
  const auto to = TRY(get_string(desired, "to"));
  const auto theirs = context.peers.call(to, "hosts", "survey", Json::object(), context.task,
                                         context.deadline.sooner(kAsk), context.stop);
  if (!theirs) return with_context(theirs.error(), fmt::format("asking {} what it has", to));
  const Survey new_side = TRY(survey_from_json(*theirs));
  const Survey old_side = TRY(survey_host(options.root, context.deadline));
  std::vector<std::string> covered;
  for (const auto& tree : cover.trees) covered.push_back(tree.path);
  for (const auto& line : cover.accept) {
    if (line.starts_with("tree ")) covered.push_back(line.substr(5));
  }
  for (const auto& database : old_side.databases) covered.push_back(database.path);
  const auto trees = changed_trees(options.root, covered, cover.days, context.deadline.sooner(kScan));
  return findings_of(take_inventory({old_side, new_side, trees, ephemeral_ports()}, cover), context.host);
}

Result<Json> check_size(const HostsOptions& options, const Context& context, const Json& desired) {
  const Json least = desired.value("at_least", Json::object());
  Wish wish{.memory = static_cast<std::uint64_t>(get_int_or(least, "memory", 0)),
            .disk = static_cast<std::uint64_t>(get_int_or(least, "disk", 0)),
            .inodes = static_cast<std::uint64_t>(get_int_or(least, "inodes", 0)),
            .cpus = get_int_or(least, "cpus", 0)};
  HostSize old_side;
  std::vector<Landing> landings;
  if (const auto grow = desired.find("grow"); grow != desired.end()) {
    wish.grow = grow->value("factor", 1.0);
    const auto from = TRY(get_string(*grow, "from"));
    const auto there = context.peers.call(from, "hosts", "size", {{"things", grow->value("old_things", Json::array())}},
                                          context.task, context.deadline.sooner(kAsk), context.stop);
    if (!there) return with_context(there.error(), fmt::format("asking {} how large it is", from));
    old_side.memory = static_cast<std::uint64_t>(TRY(get_int(*there, "memory")));
    old_side.cpus = TRY(get_int(*there, "cpus"));
    landings = TRY(landings_of(options, grow->value("things", Json::array()), there->value("uses", Json::array()),
                               context.deadline));
  }
  return judge_size(wish, TRY(size_of_host()), old_side, landings);
}

Result<Json> answer_question(const HostsOptions& options, const Context& context, std::string_view verb,
                             const Json& args) {
  if (verb == "survey") return to_json(TRY(survey_host(options.root, context.deadline)));
  if (verb == "size") return own_size(options, args.value("things", Json::array()), context.deadline.sooner(kScan));
  return refused(fmt::format("mover hosts answers no request '{}'", printable(verb)));
}

}  // namespace midstream
