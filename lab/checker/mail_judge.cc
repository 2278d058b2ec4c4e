#include "lab/checker/mail_judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace midstream::lab {

namespace {

constexpr std::size_t kMostDetails = 20;

using Key = std::pair<std::string, std::string>;  // user and message id

enum class Gone { no, perhaps, yes };

// What the ledgers say about one message in one mailbox, or on its way to one.
struct Told {
  bool accepted = false;  // 250 after the data, or seen by its reader
  bool counted = true;    // false: how many copies there may be is not known
  int most = 1;           // copies
  Gone gone = Gone::no;
  std::set<std::string> folders;                       // where it may be; empty: anywhere
  std::map<std::string, std::set<bool>> flags;         // by flag: what it may be
  std::map<std::string, std::set<std::int64_t>> uids;  // by folder: as seen
};

struct Tale {
  std::map<Key, Told> messages;
  std::map<Key, std::int64_t> uidvalidity;  // user and folder, as last seen
  std::set<std::string> ids;                // that clients asked for
};

bool is_sending(OpKind kind) { return kind == OpKind::deliver || kind == OpKind::submit; }
bool is_change(OpKind kind) { return kind == OpKind::flag || kind == OpKind::move || kind == OpKind::expunge; }

char letter_of(const std::string& flag) {
  return flag == "\\Seen"       ? 'S'
         : flag == "\\Flagged"  ? 'F'
         : flag == "\\Answered" ? 'R'
         : flag == "\\Draft"    ? 'D'
                                : 'T';
}

class MailJudge {
 public:
  MailJudge(const std::vector<std::vector<Record>>& ledgers, const MailEvidence& evidence) : evidence_(evidence) {
    for (const auto& ledger : ledgers) {
      for (const auto& record : ledger) {
        if (record.type != RecordType::start && record.type != RecordType::end && is_mail(record.kind)) hear(record);
      }
    }
  }

  MailJudgement run() {
    if (!out_.used) return std::move(out_);
    if (out_.acknowledged_messages == 0) doubt("no message was accepted: there is nothing to look for");
    if (!evidence_.mailboxes) doubt("there is no collection of the final mailboxes");
    if (!evidence_.sink) doubt("there is no book of what the rest of the world got");
    if (evidence_.mailboxes) judge_mailboxes(*evidence_.mailboxes);
    if (evidence_.sink) judge_sink(*evidence_.sink);
    return std::move(out_);
  }

 private:
  void complain(std::int64_t& count, std::string detail) {
    ++count;
    if (out_.details.size() < kMostDetails) out_.details.push_back("mail: " + std::move(detail));
  }
  void doubt(std::string why) { out_.unknowns.push_back("mail: " + std::move(why)); }

  // ---- what clients were told ----

  void hear(const Record& record) {
    out_.used = true;
    if (record.type == RecordType::violation) {
      complain(out_.violations, fmt::format("{} {} UID {} of {}: {}", record.mail.user, record.mail.folder,
                                            record.mail.uid, record.key, record.why));
    } else if (record.type == RecordType::seen) {
      hear_seen(record);
    } else if (is_sending(record.kind)) {
      hear_sending(record);
    } else if (is_change(record.kind)) {
      hear_change(record);
    }
  }

  void hear_seen(const Record& record) {
    auto& told = tale_.messages[{record.mail.user, record.key}];
    // Somebody else's, from before: it is there, and belongs there.
    if (!tale_.ids.contains(record.key) && !told.accepted) told.folders = {record.mail.folder};
    told.accepted = true;
    told.uids[record.mail.folder].insert(record.mail.uid);
    tale_.uidvalidity[{record.mail.user, record.mail.folder}] = record.mail.uidvalidity;
  }

  void hear_sending(const Record& record) {
    auto& told = tale_.messages[{record.mail.user, record.key}];
    if (record.type == RecordType::attempted) {
      tale_.ids.insert(record.key);
      told.counted = false;
      return;
    }
    told.counted = true;
    told.most = std::max(1, record.mail.maybe + (record.type == RecordType::acknowledged ? 1 : 0));
    if (record.type == RecordType::acknowledged) told.accepted = true, ++out_.acknowledged_messages;
    if (record.type != RecordType::acknowledged && record.status >= 500) {
      complain(out_.refused, fmt::format("{} to {} was refused: {}", record.key, record.mail.user, record.why));
    }
  }

  void hear_change(const Record& record) {
    auto& told = tale_.messages[{record.mail.user, record.key}];
    const bool done = record.type == RecordType::acknowledged;
    // An attempt that has no outcome yet may have been carried out; its outcome says more.
    if (record.type == RecordType::failed) {
      told = before_[record.mail.user];
      return;
    }
    if (record.type == RecordType::attempted) before_[record.mail.user] = told;
    if (done) {
      ++out_.acknowledged_flags;
      told = before_[record.mail.user];
    }
    if (record.kind == OpKind::expunge) told.gone = done ? Gone::yes : Gone::perhaps;
    if (record.kind == OpKind::move) {
      if (done) told.folders.clear();
      if (!done && told.folders.empty()) told.folders.insert(record.mail.folder);
      told.folders.insert(record.mail.change);
    }
    if (record.kind == OpKind::flag && !record.mail.change.empty()) {
      auto& allowed = told.flags[record.mail.change.substr(1)];
      const bool set = record.mail.change.front() == '+';
      if (done) {
        allowed = {set};
      } else {
        allowed.insert({set, !set});
      }
    }
  }

  // ---- what is there ----

  void judge_mailboxes(const MailCollection& mailboxes) {
    std::map<Key, std::vector<const MailMessage*>> there;
    std::set<std::string> users;
    for (const auto& folder : mailboxes.folders) {
      users.insert(folder.user);
      const auto known = tale_.uidvalidity.find({folder.user, folder.name});
      if (known != tale_.uidvalidity.end() && known->second != folder.uidvalidity) {
        complain(out_.violations, fmt::format("{} {} has the UIDVALIDITY {}; its reader knows {}", folder.user,
                                              folder.name, folder.uidvalidity, known->second));
      }
    }
    for (const auto& message : mailboxes.messages) there[{message.user, message.id}].push_back(&message);
    for (const auto& [key, told] : tale_.messages) {
      if (is_abroad(key.first)) continue;
      const auto at = there.find(key);
      judge_message(key, told, at == there.end() ? std::vector<const MailMessage*>() : at->second);
    }
  }

  // A recipient of the rest of the world, and not of a mailbox here.
  bool is_abroad(const std::string& user) const {
    if (!evidence_.mailboxes) return false;
    const auto domain = user.substr(std::min(user.find('@'), user.size()));
    return std::ranges::none_of(evidence_.mailboxes->folders,
                                [&](const MailFolder& folder) { return folder.user.ends_with(domain); });
  }

  void judge_message(const Key& key, const Told& told, const std::vector<const MailMessage*>& copies) {
    const auto name = fmt::format("{} of {}", key.second, key.first);
    if (copies.empty()) {
      if (told.accepted && told.gone == Gone::no)
        complain(out_.lost, fmt::format("{} was accepted and is not there", name));
      return;
    }
    if (told.gone == Gone::yes) return complain(out_.lost, fmt::format("{} was deleted and is there", name));
    if (told.counted && copies.size() > static_cast<std::size_t>(told.most)) {
      return complain(out_.doubled, fmt::format("{} is there {} times", name, copies.size()));
    }
    if (copies.size() > 1) return;
    const auto& message = *copies.front();
    if (!told.folders.empty() && !told.folders.contains(message.folder)) {
      complain(out_.lost, fmt::format("{} was moved to {} and is in {}", name, *told.folders.begin(), message.folder));
    }
    for (const auto& [flag, allowed] : told.flags) {
      const bool set = message.flags.find(letter_of(flag)) != std::string::npos;
      if (!allowed.contains(set))
        complain(out_.lost, fmt::format("{}: {} was {} and is not", name, flag, set ? "taken away" : "set"));
    }
    const auto seen = told.uids.find(message.folder);
    if (seen != told.uids.end() && !seen->second.contains(message.uid)) {
      complain(out_.violations,
               fmt::format("{} has the UID {} in {}; its reader knows another", name, message.uid, message.folder));
    }
  }

  void judge_sink(const std::vector<SinkLine>& sink) {
    std::map<Key, std::size_t> there;
    std::set<std::string> sources;
    for (const auto& line : sink) {
      if (!tale_.ids.contains(line.id)) continue;
      ++there[{line.to, line.id}];
      if (!evidence_.source.empty() && line.client != evidence_.source) {
        complain(out_.wrong_source,
                 fmt::format("{} came from {}, not from {}", line.id, line.client, evidence_.source));
      }
    }
    for (const auto& [key, told] : tale_.messages) {
      if (!tale_.ids.contains(key.second) || !is_abroad(key.first)) continue;
      const auto at = there.find(key);
      const auto copies = at == there.end() ? 0 : at->second;
      if (copies == 0 && told.accepted)
        complain(out_.lost, fmt::format("{} was accepted for {} and never came there", key.second, key.first));
      if (told.counted && copies > static_cast<std::size_t>(told.most))
        complain(out_.doubled, fmt::format("{} came to {} {} times", key.second, key.first, copies));
    }
  }

  const MailEvidence& evidence_;
  Tale tale_;
  std::map<std::string, Told> before_;  // by user: as it was before the change that is under way
  MailJudgement out_;
};

}  // namespace

MailJudgement judge_mail(const std::vector<std::vector<Record>>& ledgers, const MailEvidence& evidence) {
  return MailJudge(ledgers, evidence).run();
}

Json to_json(const MailJudgement& judgement) {
  return {{"lost", judgement.lost},
          {"doubled", judgement.doubled},
          {"violations", judgement.violations},
          {"refused", judgement.refused},
          {"wrong_source", judgement.wrong_source}};
}

}  // namespace midstream::lab
