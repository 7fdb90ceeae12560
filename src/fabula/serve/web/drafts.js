// What has been written from what? A forest: each draft is a beginning of its own, each branch leaves another text at a token.

export class Drafts {
  constructor() {
    this.forget();
  }

  forget() {
    this.roots = [];
    this.current = null;
  }

  // A new text of a beginning.
  begin(prompt, promptIds) {
    return this.#add({ parent: null, at: 0, prompt, promptIds, tokens: [] });
  }

  // A text that leaves the current one at a token, for another one or for the same again. A branch hangs where its
  // token is, not where it was seen: a token that the current text shares with the one it left belongs to that one.
  branch(at, token) {
    let from = this.current;
    while (from.parent && at <= from.at) from = from.parent;
    return this.#add({ parent: from, at, prompt: from.prompt, promptIds: from.promptIds, tokens: [token] });
  }

  #add(draft) {
    const made = { ...draft, finish: null, beyond: 0, children: [] };
    (draft.parent?.children ?? this.roots).push(made);
    this.current = made;
    return made;
  }

  // Takes a text back of which nothing was written, and returns to another one.
  drop(draft, to) {
    const among = draft.parent?.children ?? this.roots;
    if (among.includes(draft)) among.splice(among.indexOf(draft), 1);
    if (this.current === draft) this.current = to;
  }

  // The tokens of a text after its beginning, those that it shares included.
  path(draft) {
    return draft.parent ? [...this.path(draft.parent).slice(0, draft.at), ...draft.tokens] : draft.tokens;
  }

  // The places at which others leave this text or this text left another.
  forks(draft) {
    const found = new Set();
    for (let node = draft, end = Infinity; node; end = Math.min(end, node.at), node = node.parent) {
      for (const child of node.children) if (child.at < end || child.parent === draft) found.add(child.at);
      if (node.parent) found.add(node.at);
    }
    return found;
  }
}
