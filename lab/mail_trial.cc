#include "lab/mail_trial.h"

#include <fmt/format.h>
#include <signal.h>

#include "sys/file.h"

namespace midstream::lab {

namespace {

struct Fault {
  const char* what;
  const char* script;  // in a copy of the domain's mailboxes; $user has been used
  const char* count;   // of the judgement that must not be 0
};

// A letter that a client was told is accepted, as a file in the inbox.
constexpr const char* kPick = "f=$(grep -rl 'clients.invalid>' $user/Maildir/cur | head -1); [ -n \"$f\" ]; ";

constexpr Fault kFaults[] = {
    {"a message removed", "rm \"$f\"", "lost"},
    {"a message doubled", "cp \"$f\" $user/Maildir/cur/1790000000.M1P1.twin:2,", "doubled"},
    {"flags reverted",
     "cd $user/Maildir/cur; for n in *:2,*; do case ${n#*:2,} in *F*) mv $n $(echo $n | sed 's/F\\([^:]*\\)$/\\1/') ;; "
     "*) mv $n ${n%:2,*}:2,F${n#*:2,} ;; esac; done",
     "lost"},
    // Of whoever moved one: what was in the archive from the beginning has numbers of its own.
    {"a move taken back",
     "m=$(grep -LE 'Message-ID: <before-(4|8|12|16|20|24)[.]' */Maildir/.Archive/cur/* | head -1); [ -n \"$m\" ]; mv "
     "\"$m\" ${m%%/*}/Maildir/cur/",
     "lost"},
    {"another UIDVALIDITY", "sed -i '1s/ V[0-9]*/ V1234567/' $user/Maildir/dovecot-uidlist", "violations"},
    {"another UID", "sed -i '2,$s/^\\([0-9]*\\)/\\10/' $user/Maildir/dovecot-uidlist", "violations"},
};

Result<> expect(const Json& checker, const char* what, const char* count) {
  const auto mail = checker.value("mail", Json::object());
  if (get_string_or(checker, "verdict", "") == "fail" && get_int_or(mail, count, 0) > 0) return {};
  return refused(fmt::format("the checker does not see {}: {}", what, checker.dump()));
}

Result<> plant(Trial& trial, const Fault& fault) {
  const auto& s = trial.lab().scenario();
  const auto script = fmt::format(
      "set -e; rm -rf /tmp/planted; mkdir /tmp/planted; cp -a /var/vmail/{0} /tmp/planted/; cd /tmp/planted/{0}; "
      "user={1}; {2}{3}",
      s.mail_domain, s.mail_users[0], kPick, fault.script);
  TRY(trial.lab().must(s.old_host, {"sh", "-c", script}));
  const auto planted = TRY(trial.lab().must(
      s.old_host, {"/opt/midstream/bin/lab-check", "collect-mail", "--dir", "/tmp/planted/" + s.mail_domain}));
  return expect(TRY(trial.judge_again("--mail", planted)), fault.what, fault.count);
}

// The same in the book of what the rest of the world got.
Result<> plant_abroad(Trial& trial) {
  const auto book = TRY(read_file(trial.lab().shared() / "sink" / "book.jsonl", 64u << 20));
  const auto end = book.find('\n');
  if (end == std::string::npos) return refused("no message has come to the rest of the world: nothing can be planted");
  const auto first = book.substr(0, end + 1);
  CHECK_OK(expect(TRY(trial.judge_again("--sink", book.substr(end + 1))), "a message that never came", "lost"));
  CHECK_OK(expect(TRY(trial.judge_again("--sink", first + book)), "a message that came twice", "doubled"));
  auto other = book;
  other.replace(other.find(kMailAddress), kMailAddress.size(), "192.0.2.26");
  return expect(TRY(trial.judge_again("--sink", other)), "mail from another address", "wrong_source");
}

}  // namespace

Result<> try_mail_at_rest(Trial& trial, const std::function<void(std::string_view)>& tell) {
  const auto& s = trial.lab().scenario();
  // Each is a pause to those who are in the middle of something, and no more.
  for (const char* daemon : {"dovecot", "master"}) {
    pause_for(Millis(5'000), {});
    const int killed = TRY(trial.lab().kill(s.old_host, daemon, SIGKILL));
    if (killed == 0) return refused(fmt::format("there was no {} to kill", daemon));
    tell(fmt::format("{} on {} is killed", daemon, s.old_host));
  }
  pause_for(Millis(8'000), {});
  const auto checker = TRY(trial.judge("old", 0));
  const auto acknowledged = checker.value("acknowledged", Json::object());
  tell(fmt::format("checker: {}; {} messages, {} changes; {}; clients of mail: {}",
                   get_string_or(checker, "verdict", "?"), get_int_or(acknowledged, "messages", 0),
                   get_int_or(acknowledged, "flags", 0), checker.value("mail", Json::object()).dump(),
                   checker.value("clients", Json::object()).value("mail", Json::object()).dump()));
  if (get_string_or(checker, "verdict", "") != "pass") {
    return refused("the checker does not pass: " + checker.value("details", Json::array()).dump() +
                   checker.value("unknowns", Json::array()).dump());
  }
  for (const auto& fault : kFaults) {
    CHECK_OK(plant(trial, fault));
    tell(fmt::format("seen: {}", fault.what));
  }
  CHECK_OK(plant_abroad(trial));
  tell("seen: a message that never came to the rest of the world, one that came twice, one from another address");
  return {};
}

}  // namespace midstream::lab
