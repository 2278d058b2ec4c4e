#include "movers/mail/check.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <future>

#include "base/text.h"
#include "movers/mail/block.h"
#include "movers/mail/dovecot.h"
#include "movers/mail/postfix.h"
#include "sys/file.h"

namespace midstream::mail {

namespace fs = std::filesystem;

namespace {

// Dovecot's settings that decide what a client sees. A value that names a file is compared by the file's content.
constexpr std::array kSame{"mail_location",
                           "namespace",
                           "auth_mechanisms",
                           "auth_username_format",
                           "auth_default_realm",
                           "recipient_delimiter",
                           "mail_plugins",
                           "protocols",
                           "ssl_cert",
                           "ssl_key",
                           "plugin",
                           "passdb",
                           "userdb",
                           "pop3_uidl_format"};
// Postfix's, the same.
constexpr std::array kSamePostfix{"myhostname",
                                  "mydomain",
                                  "myorigin",
                                  "mydestination",
                                  "virtual_mailbox_domains",
                                  "virtual_mailbox_maps",
                                  "virtual_alias_maps",
                                  "virtual_alias_domains",
                                  "virtual_transport",
                                  "alias_maps",
                                  "canonical_maps",
                                  "sender_canonical_maps",
                                  "recipient_delimiter",
                                  "message_size_limit",
                                  "smtpd_recipient_restrictions",
                                  "smtpd_relay_restrictions",
                                  "smtpd_sender_restrictions",
                                  "smtpd_tls_cert_file",
                                  "smtpd_tls_key_file",
                                  "smtpd_tls_chain_files",
                                  "smtpd_sasl_type",
                                  "smtpd_sasl_path",
                                  "milter_protocol",
                                  "smtpd_milters",
                                  "non_smtpd_milters",
                                  "smtp_bind_address"};

std::string hash_of(std::string_view text) {
  const auto hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}", hash.low64);
}

// The words of a setting that are files of ours, with their content's hash: a verifier or key is compared, never shown.
void add_files(const std::string& value, Json& files) {
  std::string word;
  const auto take = [&] {
    std::string_view path = word;
    if (const auto colon = path.find(":/"); colon != std::string_view::npos) path.remove_prefix(colon + 1);
    if (path.starts_with('<')) path.remove_prefix(1);
    std::error_code ignored;
    if (path.starts_with('/') && fs::is_regular_file(path, ignored) && !path.ends_with(".map"))
      if (const auto bytes = read_file(path)) files[std::string(path)] = hash_of(*bytes);
    word.clear();
  };
  for (const char c : value) {
    if (c == ' ' || c == ',' || c == '\n' || c == '=' || c == ';')
      take();
    else
      word += c;
  }
  take();
}

// DKIM keys and the tables beside them, wherever Debian's packages keep them.
void add_tree(const fs::path& root, Json& files) {
  std::error_code ignored;
  for (fs::recursive_directory_iterator at(root, ignored), end; !ignored && at != end; at.increment(ignored))
    if (at->is_regular_file(ignored))
      if (const auto bytes = read_file(at->path(), 1u << 20)) files[at->path().string()] = hash_of(*bytes);
}

struct Findings {
  Json list = Json::array();
  void add(std::string what, bool ok, std::string detail, std::string todo = "") {
    list.push_back(finding(std::move(what), ok, std::move(detail), std::move(todo)));
  }
};

std::string version_of(const Json& facts, std::string_view key) { return get_string_or(facts, key, "?"); }

void compare(Findings& findings, const std::string& what, const Json& here, const Json& there,
             const std::string& todo) {
  std::vector<std::string> differ;
  for (const auto& [key, value] : here.items())
    if (!there.contains(key) || there.at(key) != value) differ.push_back(key);
  for (const auto& [key, value] : there.items())
    if (!here.contains(key)) differ.push_back(key);
  findings.add(what, differ.empty(),
               differ.empty() ? fmt::format("{} compared", here.size()) : "differ: " + printable(join(differ, ", ")),
               todo);
}

void compare_users(Findings& findings, const Json& old_facts, const Json& new_facts) {
  const auto ours = old_facts.value("users", Json::array());
  const auto theirs = new_facts.value("users", Json::array());
  std::vector<std::string> hostile;
  std::vector<std::string> missing;
  for (const auto& one : ours) {
    const auto name = one.get<std::string>();
    if (!is_mail_user(name)) hostile.push_back(printable(name));
    if (std::ranges::find(theirs, one) == theirs.end()) missing.push_back(printable(name));
  }
  findings.add("mail users", !ours.empty() && missing.empty(),
               missing.empty() ? fmt::format("{} on both sides", ours.size()) : "not on new: " + join(missing, ", "),
               "bring the accounts, with their password verifiers, to both hosts");
  findings.add("names of mail users", hostile.empty(), hostile.empty() ? "all let through" : join(hostile, ", "),
               "rename them, or move them by hand");
  const auto stored = new_facts.value("stored", Json::array());
  findings.add(
      "mail stores on new are empty", stored.empty(), stored.empty() ? "none is there" : stored.dump(),
      "remove them if nothing in them is wanted: a mailbox that was opened before the first copy has another identity");
}

// Trees of `files` that hold a user's home, or lie in one.
std::vector<std::string> stores_in_trees(const Json& trees, const Json& homes) {
  std::vector<std::string> found;
  for (const auto& one : trees) {
    const auto tree = one.get<std::string>() + "/";
    const bool holds = std::ranges::any_of(homes, [&](const Json& home) {
      const auto path = home.get<std::string>() + "/";
      return path.starts_with(tree) || tree.starts_with(path);
    });
    if (holds) found.push_back(printable(one.get<std::string>()));
  }
  return found;
}

}  // namespace

Result<Json> facts_of(const MailOptions& options, const Limits& limits) {
  const Dovecot dovecot(options.dovecot_conf);
  const Postfix postfix(options.postfix_conf);
  Json facts{{"files", Json::object()}, {"dovecot", Json::object()}, {"postfix", Json::object()}};
  const auto version = TRY(run_child({"dovecot", "--version"}, "", limits.deadline, limits.stop));
  facts["dovecot_version"] = std::string(trim(version.out.substr(0, version.out.find(' '))));
  for (const auto* name : kSame) {
    const auto value = dovecot.setting(name, "", limits);
    if (!value) continue;
    facts["dovecot"][name] =
        std::string(name).starts_with("ssl_") && !value->starts_with('<') ? hash_of(*value) : *value;
    add_files(*value, facts["files"]);
  }
  facts["lmtp_listener"] =
      TRY(dovecot.setting("service/lmtp/inet_listener", "", limits)).find("port = 24") != std::string::npos;
  facts["users"] = TRY(dovecot.users(limits));
  Json stored = Json::array();
  Json homes = Json::array();
  for (const auto& name : facts["users"]) {
    if (!is_mail_user(name.get<std::string>())) continue;
    const auto home = dovecot.home(name.get<std::string>(), limits);
    std::error_code ignored;
    if (home) homes.push_back(home->string());
    if (home && stored.size() < 10 && fs::exists(*home / "Maildir", ignored)) stored.push_back(home->string());
  }
  facts["stored"] = std::move(stored);
  facts["homes"] = std::move(homes);
  if (postfix.present()) {
    facts["postfix_version"] = TRY(postfix.setting("mail_version", limits));
    for (const auto* name : kSamePostfix) {
      const auto value = TRY(postfix.setting(name, limits));
      facts["postfix"][name] = value;
      add_files(value, facts["files"]);
    }
  }
  for (const auto* tree : {"/etc/opendkim", "/etc/dkimkeys", "/etc/rspamd"}) add_tree(tree, facts["files"]);
  return facts;
}

Result<Json> run_check(const MailOptions& options, const Context& context, const Plan& plan) {
  Findings findings;
  if (plan.kind != "proxy") return findings.list;  // one look for the whole of mail
  const Limits limits{context.deadline, context.stop};
  const auto facts = [&](const std::string& host) -> Result<Json> {
    if (host == context.host) return facts_of(options, limits);
    return context.peers.call(host, "mail", "facts", {{"desired", plan.raw}}, context.task, context.deadline,
                              context.stop);
  };
  auto asked = std::async(std::launch::async, facts, plan.old_side.host);
  const auto new_facts = facts(plan.new_side.host);
  const auto old_facts = asked.get();
  for (const auto& [host, side] :
       {std::pair(plan.old_side.host, &old_facts), std::pair(plan.new_side.host, &new_facts)})
    if (!*side)
      findings.add("Dovecot and Postfix on " + host, false, side->error().text(),
                   "install and configure dovecot-core and postfix there");
  if (!old_facts || !new_facts) return findings.list;
  const auto ours = version_of(*old_facts, "dovecot_version");
  const auto theirs = version_of(*new_facts, "dovecot_version");
  findings.add("Dovecot's versions", ours.starts_with("2.3.") && theirs.starts_with("2.3."),
               fmt::format("old {}, new {}", ours, theirs), "both sides must run Dovecot 2.3");
  const auto old_postfix = version_of(*old_facts, "postfix_version");
  const auto new_postfix = version_of(*new_facts, "postfix_version");
  findings.add("Postfix's versions",
               old_postfix.substr(0, old_postfix.rfind('.')) == new_postfix.substr(0, new_postfix.rfind('.')),
               fmt::format("old {}, new {}", old_postfix, new_postfix),
               "queue files travel between equal releases (the first two numbers)");
  const auto location = get_string_or((*old_facts)["dovecot"], "mail_location", "");
  findings.add("mailbox format", location.starts_with("maildir:"), location, "only maildir is followed");
  const auto mechanisms = get_string_or((*old_facts)["dovecot"], "auth_mechanisms", "");
  findings.add("authentication can be proxied", mechanisms.find_first_not_of("plainoge ") == std::string::npos,
               mechanisms, "leave auth_mechanisms at plain and login while the move lasts");
  for (const auto& [host, side] :
       {std::pair(plan.old_side.host, &*old_facts), std::pair(plan.new_side.host, &*new_facts)})
    findings.add("LMTP is reachable on " + host, get_bool_or(*side, "lmtp_listener", false), "inet_listener on port 24",
                 "add one to service lmtp, on the address that does not move");
  compare(findings, "Dovecot's configuration", (*old_facts)["dovecot"], (*new_facts)["dovecot"],
          "make them equal: clients must find the same on both sides");
  compare(findings, "Postfix's configuration", (*old_facts)["postfix"], (*new_facts)["postfix"], "make them equal");
  compare(findings, "certificates, keys, password verifiers, aliases, DKIM keys", (*old_facts)["files"],
          (*new_facts)["files"], "copy the files");
  compare_users(findings, *old_facts, *new_facts);
  if (auto trees = stores_in_trees(plan.raw.value("trees", Json::array()), old_facts->value("homes", Json::array()));
      !trees.empty())
    findings.add("mail stores among `files`", false, join(trees, ", "),
                 "take them out of `files`: they belong to mail");
  return findings.list;
}

}  // namespace midstream::mail
