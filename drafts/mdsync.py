"""mdsync.py SRC.txt NB: bring markdown cells of an executed page in step with the draft (code must be the same)."""
import json,re,sys
src,nbp=sys.argv[1:3]
nb=json.load(open(nbp))
parts=re.split(r"(?m)^# %% ",open(src).read())[1:]
assert len(parts)==len(nb['cells']),(len(parts),len(nb['cells']))
n=0
for part,c in zip(parts,nb['cells']):
    head,_,body=part.partition('\n'); body=body.strip('\n'); have=''.join(c['source'])
    if head.split()[0]=='md':
        assert c['cell_type']=='markdown'
        if have!=body:
            c['source']=body.splitlines(keepends=True); n+=1
    else: assert have==body,('code differs',have[:80],body[:80])
open(nbp,'w').write(json.dumps(nb,indent=1,ensure_ascii=False)+'\n'); print('changed',n)
