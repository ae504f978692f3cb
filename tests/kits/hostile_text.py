"""Names from outside that somebody could take for something else."""

#: Run ``touch pwned`` in a config that mmengine reads; nothing else does it.
RUNS = '{{$NOPE:__import__("os").system("touch${IFS}pwned"),#|.*}}'

#: What a file system and a command line can hold: any text without NUL, '/'.
NAMES = (
    RUNS,
    "{{$NOPE:'+str(__import__('os').system('touch${IFS}pwned'))+'}}",
    '{{$HOME:x}}', '{{$HOME:}}', '{{ $HOME : x }}', "{{'$HOME:x'}}",
    '{{$NOPE:}}', '{{$NOPE:(}}', '{{fileDirname}}', '{{ fileBasename }}',
    '{{{{fileDirname}}}}', '{{_base_.x}}', '{{ _base_.model }}', '{{', '}}',
    '{{{', '\\{{$HOME:x}}', '{%raw%}', '{{ 7*7 }}', '${HOME}',
    '$(touch pwned)',
    '`touch pwned`', '; touch pwned;', '| touch pwned', '&& touch pwned',
    "'; touch pwned; '", '"', "'", '"""', "'''", '\\', '\\\\', '\\n', '\\"',
    "'+__import__('os').system('touch pwned')+'",
    '"+__import__("os").system("touch pwned")+"', '\\(Bundle.main)',
    'a\nb', 'a\rb', '\ta', ' a', 'a ', ' ', 'a b', 'a\u2028b', 'a\u2029b',
    'a\x85b', '\ufeffa', '\x1b[31mred\x1b[0m', '\x1b]0;title\x07', '\x9b2J',
    'a\u202eb', '\x7f', 'a\udc80b', '\ud83d', 'é', 'e\u0301', '日本', '🐌',
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>',
    '</style><script>', '<!--', ']]>', '&amp;', '&#60;', 'javascript:alert(1)',
    '=1+1', '=cmd|" calc"!A0', '+1', '-1', '@SUM(1)', '\t=1', '\r=1',
    '\uff1d1', 'a|b', '|', '**b**', '[x](http://h)', '![x](y)', '~~s~~',
    'http://h', '# h', '- i', '```', '`a`', '<b>', '$\\frac$', 'a$b$', '$',
    '\\$x$', '[/]', '[bold]', '[link=http://h]x[/link]', ':snail:', 'a,b',
    'a;b', 'a=b', '(', ']', '%s', '%(x)s', '--force', '-x', '~', '*', '?',
    '#', '!', 'None', 'True', '1', '1e3', 'nan', 'null', 'class', 'self',
    '__debug__', '_delete_', '_scope_', 'ﬁ', 'x' * 200)
